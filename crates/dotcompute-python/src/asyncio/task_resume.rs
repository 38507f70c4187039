//! Resuming a task: within the current call, or through its event loop.

use std::cell::{Cell, RefCell};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{ffi, intern};

use super::parked_task::ParkedTask;
use super::waiter;

/// Limit of task steps nested inside one another. Each takes some stack frames.
const MAX_NESTED_RESUMES: u32 = 12;

/// Limit of consecutive direct resumes. After that, the event loop runs, with all its other tasks, timers and sockets.
const MAX_CONSECUTIVE_RESUMES: u32 = 64;

thread_local! {
    static NESTED_RESUMES: Cell<u32> = const { Cell::new(0) };
    static CONSECUTIVE_RESUMES: Cell<u32> = const { Cell::new(0) };
    /// The event loop of the innermost nested step on this thread, or null. `resume_now` holds a reference to it during the step.
    static STEPPING_LOOP: Cell<*mut ffi::PyObject> = const { Cell::new(std::ptr::null_mut()) };
    /// The last entry seen in this thread's dictionary, and the event loop that it stands for.
    static RUNNING_LOOP_CACHE: RefCell<Option<(Py<PyAny>, Py<PyAny>)>> = const { RefCell::new(None) };
}

/// Returns the event loop that runs on this thread.
///
/// # Errors
///
/// `RuntimeError` if none runs.
pub(super) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the pointer is null, or a call of `resume_now` on this thread's stack holds a reference to the loop.
    if let Some(event_loop) = unsafe { Bound::from_borrowed_ptr_or_opt(py, STEPPING_LOOP.get()) } {
        return Ok(event_loop);
    }
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "asyncio", "get_running_loop")?.call0()
}

/// Returns the event loop that runs on this thread, or `None` as a Python object.
///
/// CPython before 3.14 stores the running loop in the thread's dictionary, in an entry created for each run of a loop. Its getter calls
/// `getpid` each time. This function caches the loop while the entry is the same object.
pub(super) fn running_loop_or_none(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    // SAFETY: this thread is attached (`py`). Both references are borrowed, from the thread state and from its dictionary, and the second
    // becomes owned before any Python code runs.
    let entry = unsafe {
        let dictionary = ffi::PyThreadState_GetDict();
        let name = intern!(py, "__asyncio_running_event_loop__").as_ptr();
        let entry =
            if dictionary.is_null() { dictionary } else { ffi::PyDict_GetItemWithError(dictionary, name) };
        Bound::from_borrowed_ptr_or_opt(py, entry)
    };
    let cached_loop = |entry: &Bound<'_, PyAny>| {
        RUNNING_LOOP_CACHE.with_borrow(|cached| {
            cached.as_ref().filter(|cached| cached.0.is(entry)).map(|cached| cached.1.bind(py).clone())
        })
    };
    if let Some(event_loop) = entry.as_ref().and_then(cached_loop) {
        return Ok(event_loop);
    }
    let event_loop = GET.import(py, "asyncio.events", "_get_running_loop")?.call0()?;
    let cached = entry.map(|entry| (entry.unbind(), event_loop.clone().unbind()));
    let old = RUNNING_LOOP_CACHE.replace(cached);
    drop(old);
    Ok(event_loop)
}

/// Returns whether the event loop of a ring kernel is not the running one and does not run elsewhere, so that nothing would end a wait.
pub(super) fn is_stopped_elsewhere(event_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = event_loop.py();
    if is_running_here(py, event_loop.as_unbound())? {
        return Ok(false);
    }
    Ok(!event_loop.call_method0(intern!(py, "is_running"))?.is_truthy()?)
}

/// Clears the record of the running event loop. The child calls it after a fork, where no loop runs.
#[pyfunction]
pub(super) fn clear_running_loop_cache() {
    // Set if a ring kernel has forked. A nested step that the child returns to puts the outer values back.
    STEPPING_LOOP.set(std::ptr::null_mut());
    NESTED_RESUMES.set(0);
    CONSECUTIVE_RESUMES.set(0);
    drop(RUNNING_LOOP_CACHE.take());
}

/// Resumes a task within this call, if its loop runs on this thread and the limits allow it. Otherwise schedules it on its loop.
///
/// # Errors
///
/// An exception of the task that ends programs (`KeyboardInterrupt`, `SystemExit`).
pub(super) fn resume_now(py: Python<'_>, task: ParkedTask) -> PyResult<()> {
    let (nested, consecutive) = (NESTED_RESUMES.get(), CONSECUTIVE_RESUMES.get());
    if !is_running_here(py, &task.event_loop)? {
        return schedule(py, task, intern!(py, "call_soon_threadsafe"));
    }
    if nested >= MAX_NESTED_RESUMES || consecutive >= MAX_CONSECUTIVE_RESUMES {
        return schedule(py, task, intern!(py, "call_soon"));
    }
    CONSECUTIVE_RESUMES.set(consecutive + 1);
    NESTED_RESUMES.set(nested + 1);
    let event_loop = task.event_loop.clone_ref(py);
    let outer = STEPPING_LOOP.replace(event_loop.as_ptr());
    let outcome = step_nested(py, event_loop.bind(py), task);
    STEPPING_LOOP.set(outer);
    NESTED_RESUMES.set(nested);
    outcome
}

/// Returns whether a loop runs on this thread. Checks the loop of the innermost nested step first, since CPython's getter is slow
/// (see [`running_loop_or_none`]).
fn is_running_here(py: Python<'_>, event_loop: &Py<PyAny>) -> PyResult<bool> {
    Ok(STEPPING_LOOP.get() == event_loop.as_ptr() || running_loop_or_none(py)?.is(event_loop))
}

/// Schedules a task on its event loop.
///
/// # Errors
///
/// An exception of the loop, unless the loop is closed.
pub(super) fn resume_via_loop(py: Python<'_>, task: ParkedTask) -> PyResult<()> {
    let method = if is_running_here(py, &task.event_loop)? {
        intern!(py, "call_soon")
    } else {
        intern!(py, "call_soon_threadsafe")
    };
    schedule(py, task, method)
}

fn schedule(py: Python<'_>, task: ParkedTask, method: &Bound<'_, pyo3::types::PyString>) -> PyResult<()> {
    static RESUME: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let resume = RESUME.import(py, "pydotcompute._core", "resume_from_loop")?;
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "context"), task.context)?;
    let arguments = PyTuple::new(py, [resume.as_any(), task.wakeup.bind(py), task.waiter.bind(py)])?;
    let event_loop = task.event_loop.bind(py);
    match event_loop.getattr(method)?.call(arguments, Some(&keywords)) {
        Ok(_) => Ok(()),
        // The loop is closed, so the task never runs again: a message delivered to it returns to its mailbox.
        Err(_) if event_loop.call_method0(intern!(py, "is_closed"))?.is_truthy()? => {
            let waiter = task.waiter.bind(py);
            waiter::mailbox(waiter).map_or(Ok(()), |mailbox| mailbox.get().abandon(waiter))
        }
        Err(error) => Err(error),
    }
}

/// Resumes a task from a callback of its event loop, and resets the count of consecutive resumes.
#[pyfunction]
pub(super) fn resume_from_loop(wakeup: &Bound<'_, PyAny>, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    CONSECUTIVE_RESUMES.set(0);
    wakeup.call1((waiter,)).map(drop)
}

/// Runs one step of a task inside a step of the current task, which is not asyncio's current task meanwhile.
fn step_nested(py: Python<'_>, event_loop: &Bound<'_, PyAny>, task: ParkedTask) -> PyResult<()> {
    let current = CurrentTask::get(py)?;
    let outer = current.swap(event_loop, None)?;
    // SAFETY: all arguments are live objects and the list ends with null. The result is a new reference, or null with an error set.
    let outcome = unsafe {
        let (context, run) = (task.context.as_ptr(), intern!(py, "run").as_ptr());
        let end = std::ptr::null_mut::<ffi::PyObject>();
        let result =
            ffi::PyObject_CallMethodObjArgs(context, run, task.wakeup.as_ptr(), task.waiter.as_ptr(), end);
        Bound::from_owned_ptr_or_err(py, result)
    };
    current.swap(event_loop, outer)?;
    match outcome {
        Ok(_) => Ok(()),
        // A task stores its own errors, so this one comes from `Context.run`: the context is entered already, and the task has not run.
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyRuntimeError>(py) => {
            schedule(py, task, intern!(py, "call_soon"))
        }
        Err(error) => Err(error),
    }
}

/// asyncio's record of the current task of each loop, which `asyncio.current_task()` reads.
enum CurrentTask {
    /// CPython 3.12 and later: one call swaps it.
    Swap(Py<PyAny>),
    /// Earlier: a dictionary by loop.
    Table(Py<PyDict>),
}

impl CurrentTask {
    fn get(py: Python<'_>) -> PyResult<&'static CurrentTask> {
        static CURRENT: PyOnceLock<CurrentTask> = PyOnceLock::new();
        CURRENT.get_or_try_init(py, || {
            let tasks = py.import("asyncio.tasks")?;
            match tasks.getattr_opt("_swap_current_task")? {
                Some(swap) => Ok(CurrentTask::Swap(swap.unbind())),
                None => {
                    Ok(CurrentTask::Table(tasks.getattr("_current_tasks")?.cast_into::<PyDict>()?.unbind()))
                }
            }
        })
    }

    /// Sets the current task, or none, and returns the previous one.
    fn swap<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        task: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = event_loop.py();
        match self {
            CurrentTask::Swap(swap) => {
                let previous = swap.bind(py).call1((event_loop, task))?;
                Ok((!previous.is_none()).then_some(previous))
            }
            CurrentTask::Table(table) => {
                let table = table.bind(py);
                let previous = table.get_item(event_loop)?;
                match task {
                    Some(task) => table.set_item(event_loop, task)?,
                    None if previous.is_some() => table.del_item(event_loop)?,
                    None => {}
                }
                Ok(previous)
            }
        }
    }
}
