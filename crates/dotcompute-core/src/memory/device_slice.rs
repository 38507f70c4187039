//! The device's half of a buffer, borrowed.

use std::marker::PhantomData;

use super::{DeviceBlock, pod_cast};
use crate::message::record::Plain;

/// Elements on a device, to read. Their bytes are up to date there as long as this borrow lasts.
pub struct DeviceSlice<'a, T> {
    address: u64,
    len: usize,
    view: Option<&'a [u8]>,
    elements: PhantomData<T>,
}

impl<'a, T: Plain> DeviceSlice<'a, T> {
    pub(super) fn new(block: &'a dyn DeviceBlock, len: usize) -> Self {
        Self { address: block.address(), len, view: block.host_view(), elements: PhantomData }
    }

    /// Where they are, as the device sees it. Code that the device runs may read there until this borrow ends; whoever starts such
    /// code waits for it before.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, where the host can look at the device's memory: on the `cpu` device.
    #[must_use]
    pub fn as_slice(&self) -> Option<&'a [T]> {
        pod_cast::elements(self.view?)
    }

    /// Their bytes, as [`as_slice`](Self::as_slice).
    pub(crate) fn into_bytes(self) -> Option<&'a [u8]> {
        self.view
    }
}

/// Elements on a device, to write. They were marked as newer than the host's when this was borrowed.
pub struct DeviceSliceMut<'a, T> {
    address: u64,
    len: usize,
    view: Option<&'a mut [u8]>,
    elements: PhantomData<T>,
}

impl<'a, T: Plain> DeviceSliceMut<'a, T> {
    /// The elements from `first` on, of which `block` has that many at least.
    pub(super) fn new(block: &'a mut dyn DeviceBlock, first: usize, len: usize) -> Self {
        let bytes = first * size_of::<T>()..(first + len) * size_of::<T>();
        let address = block.address() + bytes.start as u64;
        let view = block.host_view_mut().and_then(|view| view.get_mut(bytes));
        Self { address, len, view, elements: PhantomData }
    }

    /// Where they are, as the device sees it. Code that the device runs may read and write there until this borrow ends; whoever
    /// starts such code waits for it before.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, where the host can look at the device's memory: on the `cpu` device.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> Option<&mut [T]> {
        pod_cast::elements_mut(self.view.as_deref_mut()?)
    }

    /// Their bytes, as [`as_mut_slice`](Self::as_mut_slice).
    pub(crate) fn into_bytes(self) -> Option<&'a mut [u8]> {
        self.view
    }
}
