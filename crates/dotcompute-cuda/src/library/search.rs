//! Where libraries are looked for, and trying one place after another.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Component, SearchAttempt, SharedObject, Unavailable};

/// Folders below a site-packages folder in which NVIDIA's wheels keep libraries: CUDA 13 has one for all, CUDA 12 one each.
const WHEEL_FOLDERS: [&str; 3] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvidia/nvjitlink/lib"];

/// How the files of NVRTC's builtins begin; a version follows. There is another kind, `libnvrtc-builtins.alt.so`, for `libnvrtc.alt.so`.
const BUILTINS_PREFIX: &str = "libnvrtc-builtins.so.";

/// Where to look for libraries. The [module](super) says in which order.
///
/// ```
/// use dotcompute_cuda::library::{Component, Search};
///
/// let search = Search::from_environment().at(Component::Nvrtc, "/opt/cuda/lib64/libnvrtc.so.13");
/// # let _ = search;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Search {
    named: Vec<(Component, Place)>,
    toolkits: Vec<Place>,
    site_packages: Vec<Place>,
    system: bool,
}

/// A file or folder, and why it is looked at.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    because: String,
}

impl Search {
    /// All places that the environment tells of, and those of the system's loader.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| env::var_os(name))
    }

    /// As [`Search::from_environment`], with the variables that `variable` has.
    ///
    /// ```
    /// # use dotcompute_cuda::library::Search;
    /// let search = Search::from_variables(|name| (name == "CUDA_HOME").then(|| "/opt/cuda".into()));
    /// # let _ = search;
    /// ```
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // A variable that is set to nothing is as good as one that is not set.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut search = Self { system: true, ..Self::default() };
        for component in [Component::Nvrtc, Component::NvJitLink] {
            let name = component.variable();
            if let Some(path) = variable(name) {
                search.named.push((component, Place { path, because: format!("named by {name}") }));
            }
        }
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            for folder in ["lib64", "lib"] {
                search.toolkits.extend(
                    variable(name)
                        .map(|root| Place { path: root.join(folder), because: format!("${name}/{folder}") }),
                );
            }
        }
        if let Some(root) = variable("VIRTUAL_ENV") {
            let because = "a wheel in $VIRTUAL_ENV".to_owned();
            search.site_packages.extend(
                site_packages_of(&root).into_iter().map(|path| Place { path, because: because.clone() }),
            );
        }
        search
    }

    /// No place at all, not even those of the system's loader.
    pub fn nowhere() -> Self {
        Self::default()
    }

    /// Looks for `component` at this file, or in this folder, and nowhere else.
    #[must_use]
    pub fn at(mut self, component: Component, path: impl Into<PathBuf>) -> Self {
        let place = Place { path: path.into(), because: "named by the program".into() };
        self.named.insert(0, (component, place));
        self
    }

    /// Looks for NVIDIA's wheels below this site-packages folder too, before that of `$VIRTUAL_ENV`.
    #[must_use]
    pub fn site_packages(mut self, folder: impl Into<PathBuf>) -> Self {
        let place = Place { path: folder.into(), because: "a wheel, named by the program".into() };
        self.site_packages.insert(0, place);
        self
    }

    /// The one place that is named for `component`, if one is.
    fn named(&self, component: Component) -> Option<&Place> {
        self.named.iter().find(|(of, _)| *of == component).map(|(_, place)| place)
    }

    /// The folders to look in for what has no named place.
    fn folders(&self) -> impl Iterator<Item = Place> {
        let wheels = self.site_packages.iter().flat_map(|Place { path, because }| {
            WHEEL_FOLDERS.map(|folder| Place { path: path.join(folder), because: because.clone() })
        });
        self.toolkits.iter().cloned().chain(wheels)
    }
}

/// The site-packages folders of a virtual environment; there is one for each version of Python that it was made for.
fn site_packages_of(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join("lib")) else { return Vec::new() };
    let is_python =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_python).collect();
    folders.sort();
    folders.iter().map(|folder| folder.join("site-packages")).collect()
}

/// Loads `component` from the first place where it is and `bind` accepts it.
pub(crate) fn load<T>(
    component: Component,
    search: &Search,
    bind: impl Fn(SharedObject) -> Result<T, String>,
) -> Result<T, Unavailable> {
    let mut attempt = Attempt { component, bind, looked: Vec::new() };
    if let Some(place) = search.named(component) {
        let found = if place.path.is_dir() { attempt.folder(place) } else { attempt.file(place) };
        let advice =
            format!("no other place was looked at, since this one is {}; correct that", place.because);
        return found.ok_or(Unavailable { component, looked: attempt.looked, advice });
    }
    for place in search.folders() {
        if let Some(loaded) = attempt.folder(&place) {
            return Ok(loaded);
        }
    }
    for name in component.file_names().into_iter().filter(|_| search.system) {
        let place = Place { path: name.into(), because: "the system's loader".into() };
        if let Some(loaded) = attempt.file(&place) {
            return Ok(loaded);
        }
    }
    let advice = format!(
        "install it with `pip install {}==13.0.*` into the active virtual environment, or a CUDA toolkit 12.4 or later and set CUDA_HOME, \
         or name its file in {}",
        component.wheel(),
        component.variable()
    );
    Err(Unavailable { component, looked: attempt.looked, advice })
}

/// The search for one library, and what has come of it so far.
struct Attempt<B> {
    component: Component,
    bind: B,
    looked: Vec<SearchAttempt>,
}

impl<T, B: Fn(SharedObject) -> Result<T, String>> Attempt<B> {
    fn folder(&mut self, place: &Place) -> Option<T> {
        if !place.path.is_dir() {
            self.note(place, "there is no such folder".into());
            return None;
        }
        let names = self.component.file_names();
        let mut files =
            names.iter().map(|name| place.path.join(name)).filter(|path| path.is_file()).peekable();
        if files.peek().is_none() {
            self.note(place, format!("neither {} nor {} is in it", names[0], names[1]));
        }
        files.find_map(|path| self.file(&Place { path, because: place.because.clone() }))
    }

    fn file(&mut self, place: &Place) -> Option<T> {
        if self.component == Component::Nvrtc {
            self.preload_builtins(place);
        }
        match SharedObject::open(&place.path).and_then(&self.bind) {
            Ok(loaded) => Some(loaded),
            Err(outcome) => {
                self.note(place, outcome);
                None
            }
        }
    }

    /// Opens NVRTC's builtins where they lie beside it. It asks for them by name when it first compiles, and knows no place to look:
    /// what is loaded already is what it then gets. By a bare name there is no beside: the loader finds both in the same way.
    fn preload_builtins(&mut self, place: &Place) {
        let Some(folder) = place.path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
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
                self.note(&Place { path, because: "NVRTC's builtins".into() }, outcome);
            }
        }
    }

    fn note(&mut self, place: &Place, outcome: String) {
        self.looked.push(SearchAttempt {
            place: place.path.clone(),
            because: place.because.clone(),
            outcome,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts whatever could be opened.
    fn accept(object: SharedObject) -> Result<SharedObject, String> {
        Ok(object)
    }

    fn places(error: &Unavailable) -> Vec<String> {
        error.looked.iter().map(|looked| looked.place.display().to_string()).collect()
    }

    #[test]
    fn the_places_are_looked_at_in_the_documented_order() {
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
        assert_eq!(places(&error), expected);
        assert_eq!(error.looked[7].outcome, "neither libnvrtc.so.13 nor libnvrtc.so.12 is in it");
    }

    #[test]
    fn a_named_place_is_the_only_place() {
        let variables = |name: &str| match name {
            "DOTCOMPUTE_NVRTC" => Some("/no/such/libnvrtc.so".into()),
            "CUDA_HOME" => Some("/no/home".into()),
            _ => None,
        };
        let search = Search::from_variables(variables);
        let error = load(Component::Nvrtc, &search, accept).map(drop).unwrap_err();
        assert_eq!(places(&error), ["/no/such/libnvrtc.so"]);
        assert!(error.advice.contains("named by DOTCOMPUTE_NVRTC"), "{error}");

        // The other library has not been named, and the program's word goes before the environment's.
        let error = load(Component::NvJitLink, &search, |_| Err::<(), _>("unwanted".into())).unwrap_err();
        assert_eq!(error.looked[0].because, "$CUDA_HOME/lib64");
        let error =
            load(Component::Nvrtc, &search.at(Component::Nvrtc, "/mine"), accept).map(drop).unwrap_err();
        assert_eq!(places(&error), ["/mine"]);
    }

    #[test]
    fn an_empty_variable_is_no_place() {
        let search = Search::from_variables(|_| Some(OsString::new()));
        assert!(search.named.is_empty() && search.toolkits.is_empty() && search.site_packages.is_empty());
    }

    #[test]
    fn what_is_not_a_library_is_passed_over_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("nvidia/cu13/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libnvJitLink.so.13"), "not a library").unwrap();
        let search = Search::nowhere().site_packages(folder.path());
        let error = load(Component::NvJitLink, &search, accept).map(drop).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("nvJitLink could not be loaded:\n"), "{text}");
        assert!(error.looked[0].place.ends_with("libnvJitLink.so.13"), "{text}");
        assert!(text.contains("pip install nvidia-nvjitlink==13.0.*"), "{text}");
        assert!(text.contains("DOTCOMPUTE_NVJITLINK"), "{text}");
    }
}
