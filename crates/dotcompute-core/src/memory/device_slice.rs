//! Borrows of a buffer's device copy.

use std::marker::PhantomData;

use super::{DeviceBlock, pod_cast};
use crate::message::record::Plain;

/// Elements of a device copy, for reading. They stay up to date as long as this borrow lasts.
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

    /// Returns the address in the device's address space. Device code may read there until this borrow ends; the caller that starts such
    /// code waits for its end first.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the elements, if the host can access the device's memory: on the `cpu` device.
    #[must_use]
    pub fn as_slice(&self) -> Option<&'a [T]> {
        pod_cast::elements(self.view?)
    }

    /// Returns the bytes under the same condition as [`as_slice`](Self::as_slice).
    pub(crate) fn into_bytes(self) -> Option<&'a [u8]> {
        self.view
    }
}

/// Elements of a device copy, for writing. The borrow has marked them dirty, so the host copy of them is stale.
pub struct DeviceSliceMut<'a, T> {
    address: u64,
    len: usize,
    view: Option<&'a mut [u8]>,
    elements: PhantomData<T>,
}

impl<'a, T: Plain> DeviceSliceMut<'a, T> {
    /// Borrows `len` elements from index `first` on. The block has at least that many.
    pub(super) fn new(block: &'a mut dyn DeviceBlock, first: usize, len: usize) -> Self {
        let bytes = first * size_of::<T>()..(first + len) * size_of::<T>();
        let address = block.address() + bytes.start as u64;
        let view = block.host_view_mut().and_then(|view| view.get_mut(bytes));
        Self { address, len, view, elements: PhantomData }
    }

    /// Returns the address in the device's address space. Device code may read and write there until this borrow ends; the caller that
    /// starts such code waits for its end first.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the elements, if the host can access the device's memory: on the `cpu` device.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> Option<&mut [T]> {
        pod_cast::elements_mut(self.view.as_deref_mut()?)
    }

    /// Returns the bytes under the same condition as [`as_mut_slice`](Self::as_mut_slice).
    pub(crate) fn into_bytes(self) -> Option<&'a mut [u8]> {
        self.view
    }
}
