//! Errors of the core as exceptions of the package.

use dotcompute_core::dead_letter::Reason;
use dotcompute_core::error::{
    AskError, Fault, LaunchError, LifecycleError, ReceiveError, Refusal, TellError,
};
use dotcompute_core::lifecycle::State;
use dotcompute_core::status::WaitCycle;
use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::exceptions::number_in;
use super::execution_place::ExecutionPlace;

/// Creates an exception of `pydotcompute.exceptions`. Returns the error of creating it if that fails.
fn exception<'py>(py: Python<'py>, class: &str, arguments: impl PyCallArgs<'py>) -> PyErr {
    let created = py
        .import("pydotcompute.exceptions")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call1(arguments));
    created.map_or_else(|error| error, PyErr::from_value)
}

/// A value has the wrong class.
pub(super) fn wrong_type(expected: &Bound<'_, PyType>, actual: &Bound<'_, PyType>, context: &str) -> PyErr {
    exception(expected.py(), "TypeValidationError", (expected, actual, context))
}

/// A message cannot be packed into a record.
pub(super) fn serialization_error(class: &Bound<'_, PyType>, cause: PyErr) -> PyErr {
    let py = class.py();
    let error = exception(py, "MessageSerializationError", (class, cause.value(py)));
    error.set_cause(py, Some(cause));
    error
}

/// A setting has an invalid value.
pub(super) fn invalid_configuration<'py>(
    py: Python<'py>,
    setting: &str,
    value: impl IntoPyObject<'py>,
    reason: &str,
) -> PyErr {
    exception(py, "InvalidConfigurationError", (setting, value, reason))
}

/// A prerequisite of a backend is missing on this machine.
pub(super) fn backend_not_available(py: Python<'_>, backend: &str, reason: &str) -> PyErr {
    exception(py, "BackendNotAvailableError", (backend, reason))
}

/// The compiler or the linker reported an error.
pub(super) fn compilation_error(py: Python<'_>, text: &str) -> PyErr {
    exception(py, "CompilationError", (text,))
}

/// A ring kernel error without a class of its own.
pub(super) fn kernel_error(py: Python<'_>, text: &str) -> PyErr {
    exception(py, "KernelError", (text,))
}

fn state_name(state: State) -> String {
    state.to_string().to_uppercase()
}

fn wrong_state(py: Python<'_>, kernel: &str, state: State, operation: &str) -> PyErr {
    exception(py, "KernelStateError", (kernel, state_name(state), operation))
}

/// A ring kernel rejected a message.
pub(super) fn rejected<M>(py: Python<'_>, error: &TellError<M>, operation: &str) -> PyErr {
    let kernel = &*error.kernel;
    match error.reason {
        Refusal::Full { capacity } => exception(py, "QueueFullError", (kernel, capacity)),
        Refusal::TimedOut { waited, .. } => {
            exception(py, "QueueTimeoutError", (kernel, waited.as_secs_f64(), "send"))
        }
        Refusal::NotActivated { state } | Refusal::Ended { state } => {
            wrong_state(py, kernel, state, operation)
        }
        Refusal::Cycle { ref cycle } => wait_cycle(py, kernel, cycle),
        _ => kernel_error(py, &error.to_string()),
    }
}

/// Ring kernels wait for each other.
fn wait_cycle(py: Python<'_>, kernel: &str, cycle: &WaitCycle) -> PyErr {
    let kernels: Vec<&str> = cycle.kernels().iter().map(|kernel| &**kernel).collect();
    exception(py, "WaitCycleError", (kernel, kernels))
}

/// The mailbox was full until the deadline.
pub(super) fn send_timeout(py: Python<'_>, kernel: &str, timeout_s: f64) -> PyErr {
    exception(py, "QueueTimeoutError", (kernel, timeout_s, "send"))
}

/// No output arrived before the deadline.
pub(super) fn receive_timeout(py: Python<'_>, kernel: &str, timeout_s: f64) -> PyErr {
    exception(py, "QueueTimeoutError", (kernel, timeout_s, "receive"))
}

/// An ask has no reply. `message` is the name of its message class.
pub(super) fn ask_error<M>(
    py: Python<'_>,
    error: &AskError<M>,
    message: &str,
    place: &ExecutionPlace,
) -> PyErr {
    match error {
        AskError::NotSent(error) => rejected(py, error, "ask"),
        AskError::Failed(fault) => not_handled(py, fault, message, place),
        AskError::NoReply { kernel, .. } => kernel_error(
            py,
            &format!(
                "Kernel '{kernel}' gave no reply to a {message}: its handler returned None; return a message, or send this one without asking"
            ),
        ),
        AskError::TimedOut { kernel, waited, .. } => {
            exception(py, "QueueTimeoutError", (&**kernel, waited.as_secs_f64(), "receive"))
        }
        AskError::Ended { kernel, state, .. } => wrong_state(py, kernel, *state, "ask"),
        AskError::Cycle { kernel, cycle, .. } => wait_cycle(py, kernel, cycle),
        _ => kernel_error(py, &error.to_string()),
    }
}

/// A message was accepted and not handled.
fn not_handled(py: Python<'_>, fault: &Fault, message: &str, place: &ExecutionPlace) -> PyErr {
    let kernel = &*fault.kernel;
    let raised = match place {
        ExecutionPlace::Host(program) => number_in(&fault.cause)
            .and_then(|number| program.take_raised(number))
            .and_then(|address| exception_at(py, address)),
        // The cause of a device fault ends with the return code of the handler. No other cause ends with a number in the handler's table.
        ExecutionPlace::Device { exception_of } => fault.cause.rsplit(' ').next().and_then(|code| {
            let code: i32 = code.parse().ok()?;
            exception_of.call1(py, (code,)).ok()?.extract(py).ok()
        }),
    };
    let Some((raised, location)) = raised else {
        let (reason, cause) = (fault.reason, &fault.cause);
        let text = format!("Kernel '{kernel}' did not handle a {message}: {reason}");
        return kernel_error(py, &if cause.is_empty() { text } else { format!("{text}: {cause}") });
    };
    let class =
        raised.get_type().name().map_or_else(|_| String::from("an exception"), |name| name.to_string());
    let message_text = raised.str().map_or_else(|_| String::new(), |text| text.to_string());
    let message_text = if message_text.is_empty() { message_text } else { format!(": {message_text}") };
    let cause = format!("its handler raised {class}{message_text} ({location})");
    let text = match fault.reason {
        Reason::KernelFailed => format!("Kernel '{kernel}' failed before it handled a {message}: {cause}"),
        _ => format!("Kernel '{kernel}' did not handle a {message}: {cause}"),
    };
    let error = kernel_error(py, &text);
    error.set_cause(py, Some(PyErr::from_value(raised)));
    error
}

/// Creates the Python exception of an `excinfo_t`, and its source location. `None` if that fails.
fn exception_at(py: Python<'_>, address: usize) -> Option<(Bound<'_, PyAny>, String)> {
    let created = py
        .import("pydotcompute.native._exceptions")
        .and_then(|module| module.getattr("exception_at"))
        .and_then(|exception_at| exception_at.call1((address,)))
        .and_then(|result| result.extract::<(Bound<'_, PyAny>, String)>());
    created.ok()
}

/// A receive has no output.
pub(super) fn not_received(py: Python<'_>, error: &ReceiveError, timeout_s: f64) -> PyErr {
    match error {
        ReceiveError::Empty { kernel } | ReceiveError::TimedOut { kernel, .. } => {
            receive_timeout(py, kernel, timeout_s)
        }
        ReceiveError::Ended { kernel, state } | ReceiveError::NotActivated { kernel, state } => {
            wrong_state(py, kernel, *state, "receive from")
        }
        ReceiveError::Cycle { kernel, cycle } => wait_cycle(py, kernel, cycle),
        _ => kernel_error(py, &error.to_string()),
    }
}

/// A lifecycle call was rejected or did not finish.
pub(super) fn lifecycle_error(py: Python<'_>, error: &LifecycleError) -> PyErr {
    match error {
        LifecycleError::WrongState { kernel, state, call, .. } => wrong_state(py, kernel, *state, call),
        LifecycleError::UnknownKernel { kernel, known } => {
            let known: Vec<&str> = known.iter().map(|name| &**name).collect();
            exception(py, "KernelNotFoundError", (kernel, known))
        }
        _ => kernel_error(py, &error.to_string()),
    }
}

/// A launch failed.
pub(super) fn launch_error(py: Python<'_>, error: &LaunchError) -> PyErr {
    match error {
        LaunchError::DuplicateName { kernel, .. } => exception(py, "KernelAlreadyExistsError", (&**kernel,)),
        LaunchError::EmptyName => invalid_configuration(py, "name", "", "use a name that is not empty"),
        LaunchError::Capacity { ring, source, .. } => {
            invalid_configuration(py, &format!("{ring}_queue_size"), py.None(), &source.to_string())
        }
        LaunchError::RuntimeClosed { kernel } => wrong_state(py, kernel, State::Terminated, "launch"),
        _ => kernel_error(py, &error.to_string()),
    }
}
