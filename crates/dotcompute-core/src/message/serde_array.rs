//! Serialization of arrays of any length; serde itself supports at most 32 elements.
//!
//! The derive macro passes the number of an array's dimensions as `D`: [`Nested`] once per dimension, around [`Element`]. serde implements
//! its traits for some arrays, so without `D` the two impls of each trait here would overlap.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Error, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Not an array.
pub struct Element;

/// An array whose elements have the shape `D`.
pub struct Nested<D>(PhantomData<D>);

/// A value of the shape `D` that can be serialized.
pub trait Write<D> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
}

/// A value of the shape `D` that can be deserialized.
pub trait Read<'de, D>: Sized {
    fn read<R: Deserializer<'de>>(deserializer: R) -> Result<Self, R::Error>;
}

/// The function that `#[serde(serialize_with)]` names for an array field.
pub fn serialize<D, T: Write<D>, S: Serializer>(array: &T, serializer: S) -> Result<S::Ok, S::Error> {
    array.write(serializer)
}

/// The function that `#[serde(deserialize_with)]` names for an array field.
pub fn deserialize<'de, D, T: Read<'de, D>, R: Deserializer<'de>>(deserializer: R) -> Result<T, R::Error> {
    T::read(deserializer)
}

impl<T: Serialize> Write<Element> for T {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize(serializer)
    }
}

impl<T: Write<D>, D, const N: usize> Write<Nested<D>> for [T; N] {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(N)?;
        for element in self {
            tuple.serialize_element(&WriteAdapter(element, PhantomData))?;
        }
        tuple.end()
    }
}

/// Implements `Serialize` through [`Write`].
struct WriteAdapter<'a, T, D>(&'a T, PhantomData<D>);

impl<T: Write<D>, D> Serialize for WriteAdapter<'_, T, D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Read<'de, Element> for T {
    fn read<R: Deserializer<'de>>(deserializer: R) -> Result<Self, R::Error> {
        T::deserialize(deserializer)
    }
}

impl<'de, T: Read<'de, D>, D, const N: usize> Read<'de, Nested<D>> for [T; N] {
    fn read<R: Deserializer<'de>>(deserializer: R) -> Result<Self, R::Error> {
        deserializer.deserialize_tuple(N, ArrayVisitor(PhantomData))
    }
}

/// Implements `DeserializeSeed` through [`Read`].
struct ReadAdapter<T, D>(PhantomData<(T, D)>);

impl<'de, T: Read<'de, D>, D> DeserializeSeed<'de> for ReadAdapter<T, D> {
    type Value = T;

    fn deserialize<R: Deserializer<'de>>(self, deserializer: R) -> Result<T, R::Error> {
        T::read(deserializer)
    }
}

struct ArrayVisitor<T, D, const N: usize>(PhantomData<(T, D)>);

impl<'de, T: Read<'de, D>, D, const N: usize> Visitor<'de> for ArrayVisitor<T, D, N> {
    type Value = [T; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {N} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<[T; N], A::Error> {
        let mut elements = Vec::with_capacity(N.min(seq.size_hint().unwrap_or(0)));
        while elements.len() < N {
            match seq.next_element_seed(ReadAdapter(PhantomData))? {
                Some(element) => elements.push(element),
                None => return Err(A::Error::invalid_length(elements.len(), &self)),
            }
        }
        if seq.next_element::<IgnoredAny>()?.is_some() {
            return Err(A::Error::invalid_length(N + 1, &self));
        }
        elements.try_into().map_err(|elements: Vec<T>| A::Error::invalid_length(elements.len(), &self))
    }
}
