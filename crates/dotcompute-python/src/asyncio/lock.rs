//! The lock of a mailbox, which costs nothing where the interpreter has one.

#[cfg(not(Py_GIL_DISABLED))]
pub(super) use interpreters::{Guard, Lock};
#[cfg(Py_GIL_DISABLED)]
pub(super) use own::{Guard, Lock};

/// With the interpreter's lock: a flag, since only one thread at a time is here, and it runs no Python while it is.
#[cfg(not(Py_GIL_DISABLED))]
mod interpreters {
    use std::cell::{Cell, UnsafeCell};
    use std::ops::{Deref, DerefMut};

    /// A value that only one piece of code at a time may touch.
    pub(crate) struct Lock<T> {
        held: Cell<bool>,
        value: UnsafeCell<T>,
    }

    // SAFETY: all methods are called by methods of Python's classes and by the garbage collector, that is, by the one thread that has the
    // interpreter's lock; this module's users neither let go of it nor run Python between locking and unlocking. `held` would tell.
    unsafe impl<T: Send> Sync for Lock<T> {}

    /// The value, until this is dropped.
    pub(crate) struct Guard<'a, T>(&'a Lock<T>);

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Lock { held: Cell::new(false), value: UnsafeCell::new(value) }
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            self.try_lock().expect("a mailbox is never locked by who has locked it: no Python runs meanwhile")
        }

        pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
            (!self.held.replace(true)).then_some(Guard(self))
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            // SAFETY: there is one guard at a time, by `held`.
            unsafe { &*self.0.value.get() }
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: there is one guard at a time, by `held`.
            unsafe { &mut *self.0.value.get() }
        }
    }

    impl<T> Drop for Guard<'_, T> {
        fn drop(&mut self) {
            self.0.held.set(false);
        }
    }
}

/// Without: a mutex, held for some tens of nanoseconds.
#[cfg(Py_GIL_DISABLED)]
mod own {
    use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

    pub(crate) type Guard<'a, T> = MutexGuard<'a, T>;

    /// A value that only one piece of code at a time may touch.
    pub(crate) struct Lock<T>(Mutex<T>);

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Lock(Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
            match self.0.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }
}
