//! Calls of user code outside a handler: formatting its errors, dropping its values, catching its panics.
//!
//! All of them may panic: `Display`, `Error::source`, `Drop`, and also the `drop` of a panic's payload. A worker runs other ring kernels too
//! and must survive each of them. Only a panic during the unwinding of another one is beyond reach: Rust then aborts the process.

use std::any::Any;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Sources of an error that enter its text. The chain of a faulty `Error::source` may have no end.
const MAX_SOURCES: usize = 64;

/// Calls user code. A panic becomes an error with its text.
#[inline]
pub(crate) fn catch_panic<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    // Unwind safe: the callers drop what a panic may have left inconsistent, unless the user has chosen `Supervision::Resume` for it.
    catch_unwind(AssertUnwindSafe(code)).map_err(panic_text)
}

/// Drops a value of the user. A panic in its `drop` has no effect beyond the panic hook's report.
pub(crate) fn drop_contained<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        drop_payload(payload);
    }
}

/// Drops the payload of a panic. If that panics in turn, the second payload is leaked: its `drop` could go on like this.
#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

/// Returns the text of a panic's payload and drops the payload.
#[cold]
fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        String::from("a panic whose payload is not text")
    };
    drop_payload(payload);
    text
}

/// Returns the text of an error and of its sources, and drops the error.
#[cold]
pub(crate) fn error_text(error: Box<dyn Error + Send + Sync>) -> String {
    let mut text = String::new();
    let problem = match catch_panic(|| write_with_sources(&mut text, &*error)) {
        Ok(Ok(())) => None,
        Ok(Err(fmt::Error)) => Some(String::from("an error whose text could not be formatted")),
        Err(panic) => Some(format!("an error whose text could not be formatted: {panic}")),
    };
    if let Some(problem) = problem {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&problem);
    }
    drop_contained(error);
    text
}

fn write_with_sources(text: &mut String, error: &dyn Error) -> fmt::Result {
    write!(text, "{error}")?;
    let mut source = error.source();
    for _ in 0..MAX_SOURCES {
        let Some(cause) = source else { return Ok(()) };
        text.push_str(": ");
        write!(text, "{cause}")?;
        source = cause.source();
    }
    if source.is_some() {
        text.push_str(": …");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics when it is dropped, with a payload that is its equal, `depth` times.
    struct PanicsWhenDropped(u32);

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Self(self.0 - 1));
            }
        }
    }

    #[test]
    fn a_panic_becomes_its_text() {
        assert_eq!(catch_panic(|| 1), Ok(1));
        assert_eq!(catch_panic(|| panic!("plain")), Err::<(), _>(String::from("plain")));
        assert_eq!(catch_panic(|| panic!("{}", 7)), Err::<(), _>(String::from("7")));
        let other = catch_panic(|| std::panic::panic_any(7));
        assert_eq!(other, Err::<(), _>(String::from("a panic whose payload is not text")));
    }

    #[test]
    fn payloads_that_panic_when_dropped_are_contained() {
        for depth in 1..5 {
            drop_contained(PanicsWhenDropped(depth));
            assert!(catch_panic(|| std::panic::panic_any(PanicsWhenDropped(depth))).is_err());
        }
    }

    /// An error whose parts misbehave as told.
    #[derive(Debug)]
    struct Faulty {
        display: fn(&mut fmt::Formatter<'_>) -> fmt::Result,
        source: fn(&Self) -> Option<&(dyn Error + 'static)>,
        panics_when_dropped: bool,
    }

    impl fmt::Display for Faulty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (self.display)(f)
        }
    }

    impl Error for Faulty {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            (self.source)(self)
        }
    }

    impl Drop for Faulty {
        fn drop(&mut self) {
            assert!(!self.panics_when_dropped, "dropped");
        }
    }

    fn text(change: impl FnOnce(&mut Faulty)) -> String {
        let mut error =
            Faulty { display: |f| f.write_str("sound"), source: |_| None, panics_when_dropped: false };
        change(&mut error);
        error_text(Box::new(error))
    }

    #[test]
    fn an_error_text_survives_every_faulty_part() {
        assert_eq!(text(|_| ()), "sound");
        assert_eq!(text(|error| error.panics_when_dropped = true), "sound");
        assert_eq!(
            text(|error| error.display = |_| panic!("no text")),
            "an error whose text could not be formatted: no text"
        );
        assert_eq!(
            text(|error| error.display = |_| Err(fmt::Error)),
            "an error whose text could not be formatted"
        );
        assert_eq!(
            text(|error| error.source = |_| panic!("no source")),
            "sound: an error whose text could not be formatted: no source"
        );
        let endless = text(|error| error.source = |this| Some(this));
        assert!(endless.ends_with(": sound: …") && endless.len() < 1000, "{endless}");
    }
}
