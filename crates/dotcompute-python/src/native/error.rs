//! Errors of the core as exceptions of the package.

use dotcompute_core::dead_letter::Reason;
use dotcompute_core::error::{
    AskError, Fault, LaunchError, LifecycleError, ReceiveError, Refusal, TellError,
};
use dotcompute_core::lifecycle::State;
use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::kernel::Place;
use super::raised::number_in;
use super::wait::Deadline;

/// An exception of `pydotcompute.exceptions`, or whatever went wrong in making it.
fn make<'py>(py: Python<'py>, class: &str, arguments: impl PyCallArgs<'py>) -> PyErr {
    let made = py
        .import("pydotcompute.exceptions")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call1(arguments));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// An object is not of the class that it should be.
pub(super) fn wrong_type(expected: &Bound<'_, PyType>, actual: &Bound<'_, PyType>, context: &str) -> PyErr {
    make(expected.py(), "TypeValidationError", (expected, actual, context))
}

/// A message has no record.
pub(super) fn unpackable(class: &Bound<'_, PyType>, cause: PyErr) -> PyErr {
    let py = class.py();
    let error = make(py, "MessageSerializationError", (class, cause.value(py)));
    error.set_cause(py, Some(cause));
    error
}

/// A setting has a value that it cannot have.
pub(super) fn invalid<'py>(
    py: Python<'py>,
    setting: &str,
    value: impl IntoPyObject<'py>,
    reason: &str,
) -> PyErr {
    make(py, "InvalidConfigurationError", (setting, value, reason))
}

/// This machine does not have what a backend takes.
pub(super) fn backend_not_available(py: Python<'_>, backend: &str, reason: &str) -> PyErr {
    make(py, "BackendNotAvailableError", (backend, reason))
}

/// The compiler or the linker refused.
pub(super) fn compilation_error(py: Python<'_>, text: &str) -> PyErr {
    make(py, "CompilationError", (text,))
}

/// A general error about a ring kernel.
pub(super) fn kernel_error(py: Python<'_>, text: &str) -> PyErr {
    make(py, "KernelError", (text,))
}

fn state_name(state: State) -> String {
    state.to_string().to_uppercase()
}

fn wrong_state(py: Python<'_>, kernel: &str, state: State, operation: &str) -> PyErr {
    make(py, "KernelStateError", (kernel, state_name(state), operation))
}

/// Why a message was not accepted.
pub(super) fn refused<M>(py: Python<'_>, error: &TellError<M>, operation: &str) -> PyErr {
    let kernel = &*error.kernel;
    match error.reason {
        Refusal::Full { capacity } => make(py, "QueueFullError", (kernel, capacity)),
        Refusal::TimedOut { waited, .. } => {
            make(py, "QueueTimeoutError", (kernel, waited.as_secs_f64(), "send"))
        }
        Refusal::NotActivated { state } | Refusal::Ended { state } => {
            wrong_state(py, kernel, state, operation)
        }
        _ => kernel_error(py, &error.to_string()),
    }
}

/// There was no room in time.
pub(super) fn no_room(py: Python<'_>, kernel: &str, deadline: Deadline) -> PyErr {
    make(py, "QueueTimeoutError", (kernel, deadline.seconds(), "send"))
}

/// There was nothing in time.
pub(super) fn nothing_came(py: Python<'_>, kernel: &str, deadline: Deadline) -> PyErr {
    make(py, "QueueTimeoutError", (kernel, deadline.seconds(), "receive"))
}

/// Why an ask has no answer. `message` names what was asked.
pub(super) fn unanswered<M>(py: Python<'_>, error: &AskError<M>, message: &str, place: &Place) -> PyErr {
    match error {
        AskError::NotSent(error) => refused(py, error, "ask"),
        AskError::Failed(fault) => failed(py, fault, message, place),
        AskError::NoReply { kernel, .. } => kernel_error(
            py,
            &format!(
                "Kernel '{kernel}' gave no reply to a {message}: its handler returned None; return a message, or use tell()"
            ),
        ),
        AskError::TimedOut { kernel, waited, .. } => {
            make(py, "QueueTimeoutError", (&**kernel, waited.as_secs_f64(), "receive"))
        }
        AskError::Ended { kernel, state, .. } => wrong_state(py, kernel, *state, "ask"),
        _ => kernel_error(py, &error.to_string()),
    }
}

/// A message was accepted and not handled.
fn failed(py: Python<'_>, fault: &Fault, message: &str, place: &Place) -> PyErr {
    let kernel = &*fault.kernel;
    let exception = match place {
        Place::Host(program) => number_in(&fault.cause)
            .and_then(|number| program.take_raised(number))
            .and_then(|address| describe(py, address)),
        // The core says what the handler returned; no other cause ends with a number that the handler's table has.
        Place::Device { exception_of } => fault.cause.rsplit(' ').next().and_then(|code| {
            let code: i32 = code.parse().ok()?;
            exception_of.call1(py, (code,)).ok()?.extract(py).ok()
        }),
    };
    let Some((exception, place)) = exception else {
        let (reason, cause) = (fault.reason, &fault.cause);
        let text = format!("Kernel '{kernel}' did not handle a {message}: {reason}");
        return kernel_error(py, &if cause.is_empty() { text } else { format!("{text}: {cause}") });
    };
    let name =
        exception.get_type().name().map_or_else(|_| String::from("an exception"), |name| name.to_string());
    let said = exception.str().map_or_else(|_| String::new(), |said| said.to_string());
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let raised = format!("its handler raised {name}{said} ({place})");
    let text = match fault.reason {
        Reason::KernelFailed => format!("Kernel '{kernel}' failed before it came to a {message}: {raised}"),
        _ => format!("Kernel '{kernel}' did not handle a {message}: {raised}"),
    };
    let error = kernel_error(py, &text);
    error.set_cause(py, Some(PyErr::from_value(exception)));
    error
}

/// The exception behind Numba's description of it, and where it was raised.
fn describe(py: Python<'_>, address: usize) -> Option<(Bound<'_, PyAny>, String)> {
    let described = py
        .import("pydotcompute.native._exceptions")
        .and_then(|module| module.getattr("exception_at"))
        .and_then(|describe| describe.call1((address,)))
        .and_then(|described| described.extract::<(Bound<'_, PyAny>, String)>());
    // Without it the error is still the kernel's, and says so.
    described.ok()
}

/// Why nothing was received.
pub(super) fn not_received(py: Python<'_>, error: &ReceiveError, deadline: Deadline) -> PyErr {
    match error {
        ReceiveError::Empty { kernel } | ReceiveError::TimedOut { kernel, .. } => {
            nothing_came(py, kernel, deadline)
        }
        ReceiveError::Ended { kernel, state } | ReceiveError::NotActivated { kernel, state } => {
            wrong_state(py, kernel, *state, "receive from")
        }
        _ => kernel_error(py, &error.to_string()),
    }
}

/// Why a call on a ring kernel's life was refused or did not finish.
pub(super) fn lifecycle(py: Python<'_>, error: &LifecycleError) -> PyErr {
    match error {
        LifecycleError::WrongState { kernel, state, call, .. } => wrong_state(py, kernel, *state, call),
        LifecycleError::UnknownKernel { kernel, known } => {
            let known: Vec<&str> = known.iter().map(|name| &**name).collect();
            make(py, "KernelNotFoundError", (kernel, known))
        }
        _ => kernel_error(py, &error.to_string()),
    }
}

/// Why a ring kernel could not be launched.
pub(super) fn not_launched(py: Python<'_>, error: &LaunchError) -> PyErr {
    match error {
        LaunchError::DuplicateName { kernel, .. } => make(py, "KernelAlreadyExistsError", (&**kernel,)),
        LaunchError::EmptyName => invalid(py, "name", "", "give it a name"),
        LaunchError::Capacity { ring, source, .. } => {
            invalid(py, &format!("{ring}_queue_size"), py.None(), &source.to_string())
        }
        LaunchError::RuntimeClosed { kernel } => wrong_state(py, kernel, State::Terminated, "launch"),
        _ => kernel_error(py, &error.to_string()),
    }
}
