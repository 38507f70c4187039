//! The search for a library: its locations, and the attempts to load from them.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use dotcompute_core::environment;

use super::{Component, SearchAttempt, SharedObject, Unavailable};

/// Folders of NVIDIA's wheels below a site-packages folder. CUDA 13 uses one for all libraries, CUDA 12 one per library.
const WHEEL_FOLDERS: [&str; 3] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvidia/nvjitlink/lib"];

/// Prefix of the file names of NVRTC's builtins; a version follows. `libnvrtc-builtins.alt.so` belongs to `libnvrtc.alt.so` and does not
/// match.
const BUILTINS_PREFIX: &str = "libnvrtc-builtins.so.";

/// The locations to search for libraries. The [module](super) documents their order.
///
/// ```
/// use dotcompute_cuda::library::{Component, Search};
///
/// let search = Search::from_environment().at(Component::Nvrtc, "/opt/cuda/lib64/libnvrtc.so.13");
/// # let _ = search;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Search {
    named: Vec<(Component, SearchLocation)>,
    toolkits: Vec<SearchLocation>,
    site_packages: Vec<SearchLocation>,
    system: bool,
}

/// A file or folder, and why it is searched.
#[derive(Clone, Debug)]
struct SearchLocation {
    path: PathBuf,
    origin: String,
}

impl Search {
    /// Creates a search of all locations that environment variables name, and of the system's loader path.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| env::var_os(name))
    }

    /// Like [`Search::from_environment`], but reads variables with `variable`.
    ///
    /// ```
    /// # use dotcompute_cuda::library::Search;
    /// let search = Search::from_variables(|name| (name == "CUDA_HOME").then(|| "/opt/cuda".into()));
    /// # let _ = search;
    /// ```
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // An empty variable counts as unset.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut search = Self { system: true, ..Self::default() };
        for component in [Component::Nvrtc, Component::NvJitLink] {
            let name = component.variable();
            if let Some(path) = variable(name) {
                search.named.push((component, SearchLocation { path, origin: format!("named by {name}") }));
            }
        }
        for name in [environment::CUDA_HOME, environment::CUDA_PATH] {
            for folder in ["lib64", "lib"] {
                search.toolkits.extend(variable(name).map(|root| SearchLocation {
                    path: root.join(folder),
                    origin: format!("${name}/{folder}"),
                }));
            }
        }
        if let Some(root) = variable(environment::VIRTUAL_ENV) {
            let origin = "a wheel in $VIRTUAL_ENV".to_owned();
            search.site_packages.extend(
                site_packages_of(&root)
                    .into_iter()
                    .map(|path| SearchLocation { path, origin: origin.clone() }),
            );
        }
        search
    }

    /// Creates a search without any location, not even the path of the system's loader.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Searches for `component` at this file or in this folder only.
    #[must_use]
    pub fn at(mut self, component: Component, path: impl Into<PathBuf>) -> Self {
        let location = SearchLocation { path: path.into(), origin: "named by the program".into() };
        self.named.insert(0, (component, location));
        self
    }

    /// Adds a site-packages folder to search for NVIDIA's wheels, before those of `$VIRTUAL_ENV`.
    #[must_use]
    pub fn site_packages(mut self, folder: impl Into<PathBuf>) -> Self {
        let location = SearchLocation { path: folder.into(), origin: "a wheel, named by the program".into() };
        self.site_packages.insert(0, location);
        self
    }

    /// Returns the exclusive location of `component`, if it has one.
    fn named(&self, component: Component) -> Option<&SearchLocation> {
        self.named.iter().find(|(of, _)| *of == component).map(|(_, location)| location)
    }

    /// Returns the folders to search for libraries without an exclusive location.
    fn folders(&self) -> impl Iterator<Item = SearchLocation> {
        let wheels = self.site_packages.iter().flat_map(|SearchLocation { path, origin }| {
            WHEEL_FOLDERS.map(|folder| SearchLocation { path: path.join(folder), origin: origin.clone() })
        });
        self.toolkits.iter().cloned().chain(wheels)
    }
}

/// Returns the site-packages folders of a virtual environment: one per Python version.
fn site_packages_of(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join("lib")) else { return Vec::new() };
    let is_python =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_python).collect();
    folders.sort();
    folders.iter().map(|folder| folder.join("site-packages")).collect()
}

/// Loads `component` from the first location where it exists and `bind` accepts it.
pub(crate) fn load<T>(
    component: Component,
    search: &Search,
    bind: impl Fn(SharedObject) -> Result<T, String>,
) -> Result<T, Unavailable> {
    let mut loader = Loader { component, bind, attempts: Vec::new() };
    if let Some(location) = search.named(component) {
        let found = if location.path.is_dir() { loader.folder(location) } else { loader.file(location) };
        let advice =
            format!("no other location was searched, because this one is {}; correct it", location.origin);
        return found.ok_or(Unavailable { component, attempts: loader.attempts, advice });
    }
    for location in search.folders() {
        if let Some(loaded) = loader.folder(&location) {
            return Ok(loaded);
        }
    }
    for name in component.file_names().into_iter().filter(|_| search.system) {
        let location = SearchLocation { path: name.into(), origin: "the system's loader".into() };
        if let Some(loaded) = loader.file(&location) {
            return Ok(loaded);
        }
    }
    let advice = format!(
        "install it with `pip install {}==13.0.*` into the active virtual environment, or a CUDA toolkit 12.4 or later and set CUDA_HOME, \
         or name its file in {}",
        component.wheel(),
        component.variable()
    );
    Err(Unavailable { component, attempts: loader.attempts, advice })
}

/// The search for one library, with the failed attempts so far.
struct Loader<B> {
    component: Component,
    bind: B,
    attempts: Vec<SearchAttempt>,
}

impl<T, B: Fn(SharedObject) -> Result<T, String>> Loader<B> {
    fn folder(&mut self, location: &SearchLocation) -> Option<T> {
        if !location.path.is_dir() {
            self.record_failure(location, "no such folder".into());
            return None;
        }
        let names = self.component.file_names();
        let mut files =
            names.iter().map(|name| location.path.join(name)).filter(|path| path.is_file()).peekable();
        if files.peek().is_none() {
            self.record_failure(location, format!("neither {} nor {} is in it", names[0], names[1]));
        }
        files.find_map(|path| self.file(&SearchLocation { path, origin: location.origin.clone() }))
    }

    fn file(&mut self, location: &SearchLocation) -> Option<T> {
        if self.component == Component::Nvrtc {
            self.preload_builtins(location);
        }
        match SharedObject::open(&location.path).and_then(&self.bind) {
            Ok(loaded) => Some(loaded),
            Err(outcome) => {
                self.record_failure(location, outcome);
                None
            }
        }
    }

    /// Opens NVRTC's builtins from the folder of the library. NVRTC opens them by bare name at its first compilation, without a search
    /// path; a library that is already loaded satisfies that. A bare name has no folder: the loader then finds both in the same way.
    fn preload_builtins(&mut self, location: &SearchLocation) {
        let Some(folder) = location.path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            return;
        };
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(BUILTINS_PREFIX))
        });
        files.sort();
        for path in files {
            if let Err(outcome) = SharedObject::open(&path) {
                self.record_failure(&SearchLocation { path, origin: "NVRTC's builtins".into() }, outcome);
            }
        }
    }

    fn record_failure(&mut self, location: &SearchLocation, outcome: String) {
        self.attempts.push(SearchAttempt {
            location: location.path.clone(),
            origin: location.origin.clone(),
            outcome,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts every library that could be opened.
    fn accept(object: SharedObject) -> Result<SharedObject, String> {
        Ok(object)
    }

    fn locations(error: &Unavailable) -> Vec<String> {
        error.attempts.iter().map(|attempts| attempts.location.display().to_string()).collect()
    }

    #[test]
    fn locations_are_searched_in_the_documented_order() {
        let venv = tempfile::tempdir().unwrap();
        fs::create_dir_all(venv.path().join("lib/python3.11/site-packages/nvidia/cu13/lib")).unwrap();
        let search = Search::from_variables(|name| match name {
            "CUDA_HOME" => Some("/no/home".into()),
            "CUDA_PATH" => Some("/no/path".into()),
            "VIRTUAL_ENV" => Some(venv.path().into()),
            _ => None,
        });
        let error =
            load(Component::Nvrtc, &search.site_packages("/no/site"), |_| Err::<(), _>("unwanted".into()));
        let error = error.unwrap_err();
        let venv = format!("{}/lib/python3.11/site-packages/nvidia", venv.path().display());
        let expected = [
            "/no/home/lib64",
            "/no/home/lib",
            "/no/path/lib64",
            "/no/path/lib",
            "/no/site/nvidia/cu13/lib",
            "/no/site/nvidia/cuda_nvrtc/lib",
            "/no/site/nvidia/nvjitlink/lib",
            &format!("{venv}/cu13/lib"),
            &format!("{venv}/cuda_nvrtc/lib"),
            &format!("{venv}/nvjitlink/lib"),
            "libnvrtc.so.13",
            "libnvrtc.so.12",
        ];
        assert_eq!(locations(&error), expected);
        assert_eq!(error.attempts[7].outcome, "neither libnvrtc.so.13 nor libnvrtc.so.12 is in it");
    }

    #[test]
    fn a_named_location_is_exclusive() {
        let variables = |name: &str| match name {
            "DOTCOMPUTE_NVRTC" => Some("/no/such/libnvrtc.so".into()),
            "CUDA_HOME" => Some("/no/home".into()),
            _ => None,
        };
        let search = Search::from_variables(variables);
        let error = load(Component::Nvrtc, &search, accept).map(drop).unwrap_err();
        assert_eq!(locations(&error), ["/no/such/libnvrtc.so"]);
        assert!(error.advice.contains("named by DOTCOMPUTE_NVRTC"), "{error}");

        // The other library has no named location. A location that the program names takes precedence over the environment.
        let error = load(Component::NvJitLink, &search, |_| Err::<(), _>("unwanted".into())).unwrap_err();
        assert_eq!(error.attempts[0].origin, "$CUDA_HOME/lib64");
        let error =
            load(Component::Nvrtc, &search.at(Component::Nvrtc, "/mine"), accept).map(drop).unwrap_err();
        assert_eq!(locations(&error), ["/mine"]);
    }

    #[test]
    fn an_empty_variable_adds_no_location() {
        let search = Search::from_variables(|_| Some(OsString::new()));
        assert!(search.named.is_empty() && search.toolkits.is_empty() && search.site_packages.is_empty());
    }

    #[test]
    fn a_file_that_is_not_a_library_is_skipped_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("nvidia/cu13/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libnvJitLink.so.13"), "not a library").unwrap();
        let search = Search::empty().site_packages(folder.path());
        let error = load(Component::NvJitLink, &search, accept).map(drop).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("nvJitLink could not be loaded:\n"), "{text}");
        assert!(error.attempts[0].location.ends_with("libnvJitLink.so.13"), "{text}");
        assert!(text.contains("pip install nvidia-nvjitlink==13.0.*"), "{text}");
        assert!(text.contains("DOTCOMPUTE_NVJITLINK"), "{text}");
    }
}
