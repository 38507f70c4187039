//! The account of what is resident on a device: blocks that are promised and not given back.
//!
//! A resident kernel never makes way for another, so one that does not fit beside those already there would wait for ever, and a grid
//! of which a part fits would hang in its first barrier. Whoever does not fit is refused at launch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The blocks of one device.
pub(crate) struct Account {
    capacity: u32,
    taken: Mutex<u32>,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it takes {asked} blocks, and {free} of the device's {capacity} are free; take fewer blocks, or terminate ring kernels that hold {taken}"
)]
pub(crate) struct Full {
    pub(crate) asked: u32,
    pub(crate) free: u32,
    pub(crate) taken: u32,
    pub(crate) capacity: u32,
}

impl Account {
    /// An account of so many blocks.
    pub(crate) fn new(capacity: u32) -> Arc<Self> {
        Arc::new(Self { capacity, taken: Mutex::new(0) })
    }

    fn taken(&self) -> MutexGuard<'_, u32> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many, or says how many would fit.
    pub(crate) fn take(self: &Arc<Self>, asked: u32) -> Result<Share, Full> {
        let mut taken = self.taken();
        let free = self.capacity.saturating_sub(*taken);
        if asked > free {
            return Err(Full { asked, free, taken: *taken, capacity: self.capacity });
        }
        *taken += asked;
        Ok(Share { account: Arc::clone(self), blocks: asked })
    }
}

/// Blocks that a ring kernel holds; given back when dropped.
pub(crate) struct Share {
    account: Arc<Account>,
    blocks: u32,
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.account.taken() -= self.blocks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_what_would() {
        let account = Account::new(10);
        let first = account.take(6).unwrap();
        let _second = account.take(2).unwrap();
        let full = account.take(3).err().unwrap();
        assert_eq!(full, Full { asked: 3, free: 2, taken: 8, capacity: 10 });
        drop(first);
        assert!(account.take(8).is_ok());
    }
}
