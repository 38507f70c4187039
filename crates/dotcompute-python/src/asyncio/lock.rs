//! The lock of a mailbox: a flag on interpreters with a GIL, a mutex on free-threaded ones.

#[cfg(not(Py_GIL_DISABLED))]
pub(super) use gil_flag::{Guard, Lock};
#[cfg(Py_GIL_DISABLED)]
pub(super) use mutex::{Guard, Lock};

/// With a GIL: a flag. Only the thread that holds the GIL locks, and it runs no Python code under the lock.
#[cfg(not(Py_GIL_DISABLED))]
mod gil_flag {
    use std::cell::{Cell, UnsafeCell};
    use std::ops::{Deref, DerefMut};

    /// A value with exclusive access.
    pub(crate) struct Lock<T> {
        held: Cell<bool>,
        value: UnsafeCell<T>,
    }

    // SAFETY: only methods of Python classes and the garbage collector call the methods, so the calling thread holds the GIL. Users of this
    // module neither detach nor run Python code while they hold a guard, so no other thread runs between locking and unlocking. A
    // violation on one thread fails the check of `held`.
    unsafe impl<T: Send> Sync for Lock<T> {}

    /// Access to the value until it is dropped.
    pub(crate) struct Guard<'a, T>(&'a Lock<T>);

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Lock { held: Cell::new(false), value: UnsafeCell::new(value) }
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            self.try_lock()
                .expect("locking a mailbox: it is locked already; no Python code may run under the lock")
        }

        pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
            (!self.held.replace(true)).then_some(Guard(self))
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            // SAFETY: `try_lock` creates a guard only if `held` was false, and only the drop of that guard resets it. So this is the only
            // guard, and this access is exclusive.
            unsafe { &*self.0.value.get() }
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: `try_lock` creates a guard only if `held` was false, and only the drop of that guard resets it. So this is the only
            // guard, and this access is exclusive.
            unsafe { &mut *self.0.value.get() }
        }
    }

    impl<T> Drop for Guard<'_, T> {
        fn drop(&mut self) {
            self.0.held.set(false);
        }
    }
}

/// Without a GIL: a mutex, held for some tens of nanoseconds.
#[cfg(Py_GIL_DISABLED)]
mod mutex {
    use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

    pub(crate) type Guard<'a, T> = MutexGuard<'a, T>;

    /// A value with exclusive access.
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
