//! Giving a task its turn: by calling it here and now, or through its event loop.

use std::cell::{Cell, RefCell};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{ffi, intern};

use super::waiter;

/// How many tasks may take their step inside one another's. Each is some frames of stack.
const NESTED: u32 = 12;

/// How many may be given their turn directly before the loop, and all other tasks, timers and sockets with it, has one.
const IN_A_ROW: u32 = 64;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static ROW: Cell<u32> = const { Cell::new(0) };
    /// The loop on which a task takes its step inside another's on this thread, or null. That task's caller holds it.
    static STEPPING: Cell<*mut ffi::PyObject> = const { Cell::new(std::ptr::null_mut()) };
    /// The entry of this thread's dictionary that was last seen, and the loop that it stood for.
    static RUNNING: RefCell<Option<(Py<PyAny>, Py<PyAny>)>> = const { RefCell::new(None) };
}

/// A task to be woken: what it left with the waiter that it waits for.
pub(super) struct Sleeper {
    pub(super) waiter: Py<PyAny>,
    pub(super) wakeup: Py<PyAny>,
    pub(super) context: Py<PyAny>,
    pub(super) event_loop: Py<PyAny>,
}

/// The loop that runs on this thread.
///
/// # Errors
///
/// `RuntimeError` where none runs.
pub(super) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: null, or held by a call of `give` further up this thread's stack.
    if let Some(event_loop) = unsafe { Bound::from_borrowed_ptr_or_opt(py, STEPPING.get()) } {
        return Ok(event_loop);
    }
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "asyncio", "get_running_loop")?.call0()
}

/// The loop that runs on this thread, or `None`.
///
/// Python, before 3.14, keeps it in the thread's dictionary, in an entry that is made anew for each run of a loop, and asks the operating
/// system for the process's number whenever it is asked for the loop. While the entry is the same, so is the answer.
fn running_loop_or_none(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    // SAFETY: the interpreter is attached; both references are borrowed, from the thread's state and from its dictionary.
    let entry = unsafe {
        let dictionary = ffi::PyThreadState_GetDict();
        let name = intern!(py, "__asyncio_running_event_loop__").as_ptr();
        let entry =
            if dictionary.is_null() { dictionary } else { ffi::PyDict_GetItemWithError(dictionary, name) };
        Bound::from_borrowed_ptr_or_opt(py, entry)
    };
    let known = |entry: &Bound<'_, PyAny>| {
        RUNNING.with_borrow(|kept| {
            kept.as_ref().filter(|kept| kept.0.is(entry)).map(|kept| kept.1.bind(py).clone())
        })
    };
    if let Some(event_loop) = entry.as_ref().and_then(known) {
        return Ok(event_loop);
    }
    let event_loop = GET.import(py, "asyncio.events", "_get_running_loop")?.call0()?;
    let kept = entry.map(|entry| (entry.unbind(), event_loop.clone().unbind()));
    let old = RUNNING.replace(kept);
    drop(old);
    Ok(event_loop)
}

/// Forgets which loop runs. Called in the child after a fork, where none does.
#[pyfunction]
pub(super) fn clear_running_loop_cache() {
    drop(RUNNING.take());
}

/// Gives a task its turn: within this call if it belongs to the loop that runs here and the bounds allow it, else through its loop.
///
/// # Errors
///
/// What ends programs (`KeyboardInterrupt`, `SystemExit`) and was raised in the task.
pub(super) fn give(py: Python<'_>, sleeper: Sleeper) -> PyResult<()> {
    let (depth, row) = (DEPTH.get(), ROW.get());
    if !runs_here(py, &sleeper.event_loop)? {
        return schedule(py, sleeper, intern!(py, "call_soon_threadsafe"));
    }
    if depth >= NESTED || row >= IN_A_ROW {
        return schedule(py, sleeper, intern!(py, "call_soon"));
    }
    ROW.set(row + 1);
    DEPTH.set(depth + 1);
    let event_loop = sleeper.event_loop.clone_ref(py);
    let outer = STEPPING.replace(event_loop.as_ptr());
    let outcome = step(py, event_loop.bind(py), sleeper);
    STEPPING.set(outer);
    DEPTH.set(depth);
    outcome
}

/// Whether a loop is the one that runs on this thread. It mostly is the one on which a step is being taken, and Python, before 3.12, asks
/// the operating system for the process's number whenever it is asked for the loop.
fn runs_here(py: Python<'_>, event_loop: &Py<PyAny>) -> PyResult<bool> {
    Ok(STEPPING.get() == event_loop.as_ptr() || running_loop_or_none(py)?.is(event_loop))
}

/// Gives a task its turn when the loop comes to it.
///
/// # Errors
///
/// What the loop raises, unless it is closed.
pub(super) fn give_later(py: Python<'_>, sleeper: Sleeper) -> PyResult<()> {
    let name = if runs_here(py, &sleeper.event_loop)? {
        intern!(py, "call_soon")
    } else {
        intern!(py, "call_soon_threadsafe")
    };
    schedule(py, sleeper, name)
}

fn schedule(py: Python<'_>, sleeper: Sleeper, how: &Bound<'_, pyo3::types::PyString>) -> PyResult<()> {
    static RESUME: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let resume = RESUME.import(py, "pydotcompute._core", "resume_from_loop")?;
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "context"), sleeper.context)?;
    let arguments = PyTuple::new(py, [resume.as_any(), sleeper.wakeup.bind(py), sleeper.waiter.bind(py)])?;
    let event_loop = sleeper.event_loop.bind(py);
    match event_loop.getattr(how)?.call(arguments, Some(&keywords)) {
        Ok(_) => Ok(()),
        // The task will never run again: what it was given is for whoever comes next.
        Err(_) if event_loop.call_method0(intern!(py, "is_closed"))?.is_truthy()? => {
            waiter::abandon(sleeper.waiter.bind(py))
        }
        Err(error) => Err(error),
    }
}

/// What the loop calls for a task that was not woken directly: the loop has its turn, so the count begins anew.
#[pyfunction]
pub(super) fn resume_from_loop(wakeup: &Bound<'_, PyAny>, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    ROW.set(0);
    wakeup.call1((waiter,)).map(drop)
}

/// Lets a task take its step inside the current one's: that one is put aside as asyncio's current task meanwhile.
fn step(py: Python<'_>, event_loop: &Bound<'_, PyAny>, sleeper: Sleeper) -> PyResult<()> {
    let current = CurrentTask::of(py)?;
    let before = current.replace(event_loop, None)?;
    // SAFETY: all are live objects, the list ends with null, and the result is a new reference or null with an error set.
    let outcome = unsafe {
        let (context, run) = (sleeper.context.as_ptr(), intern!(py, "run").as_ptr());
        let end = std::ptr::null_mut::<ffi::PyObject>();
        let result = ffi::PyObject_CallMethodObjArgs(
            context,
            run,
            sleeper.wakeup.as_ptr(),
            sleeper.waiter.as_ptr(),
            end,
        );
        Bound::from_owned_ptr_or_err(py, result)
    };
    current.replace(event_loop, before)?;
    match outcome {
        Ok(_) => Ok(()),
        // A task keeps its own errors. This one is of a context that somebody is in already, so the task was not called.
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyRuntimeError>(py) => {
            schedule(py, sleeper, intern!(py, "call_soon"))
        }
        Err(error) => Err(error),
    }
}

/// asyncio's note of which task runs on which loop, for whoever asks `asyncio.current_task()`.
enum CurrentTask {
    /// Python 3.12 and later exchange it in one call.
    Swap(Py<PyAny>),
    /// Before, it is a dictionary by loop.
    Table(Py<PyDict>),
}

impl CurrentTask {
    fn of(py: Python<'_>) -> PyResult<&'static CurrentTask> {
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

    /// Makes a task, or none, the current one and returns which was.
    fn replace<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        task: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = event_loop.py();
        match self {
            CurrentTask::Swap(swap) => {
                let before = swap.bind(py).call1((event_loop, task))?;
                Ok((!before.is_none()).then_some(before))
            }
            CurrentTask::Table(table) => {
                let table = table.bind(py);
                let before = table.get_item(event_loop)?;
                match task {
                    Some(task) => table.set_item(event_loop, task)?,
                    None if before.is_some() => table.del_item(event_loop)?,
                    None => {}
                }
                Ok(before)
            }
        }
    }
}
