//! Type names put together at compile time, and the ids made of them.

use std::fmt;

/// A stable number for a message type: the 64-bit FNV-1a hash of its [`TYPE_NAME`](super::Message::TYPE_NAME).
///
/// It depends on nothing but the name, so every process, every language and every version of the compiler computes
/// the same one: start with `0xcbf29ce484222325`; for each byte of the UTF-8 name, exclusive-or it in, then multiply by
/// `0x100000001b3` modulo 2⁶⁴ ([the algorithm](http://www.isthe.com/chongo/tech/comp/fnv/)).
///
/// ```
/// use dotcompute_core::message::MessageTypeId;
///
/// assert_eq!(MessageTypeId::of("a").get(), 0xaf63dc4c8601ec8c);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MessageTypeId(u64);

impl MessageTypeId {
    /// The id of the type with this name.
    pub const fn of(type_name: &str) -> Self {
        let bytes = type_name.as_bytes();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for MessageTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageTypeId({self})")
    }
}

/// A type name in the making. Traits cannot concatenate their constants, this can: it is how `Option<T>` gets the name
/// `Option<` + `T::TYPE_NAME` + `>`.
#[doc(hidden)]
pub struct TypeName {
    bytes: [u8; Self::MAX_LEN],
    len: usize,
}

impl TypeName {
    const MAX_LEN: usize = 512;

    /// Starts with `text`.
    pub const fn new(text: &str) -> Self {
        Self { bytes: [0; Self::MAX_LEN], len: 0 }.and(text)
    }

    /// Appends `text`.
    ///
    /// # Panics
    ///
    /// If the name gets longer than 512 bytes: a compile error, because names are only made in constants.
    #[must_use]
    pub const fn and(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        assert!(
            self.len + text.len() <= Self::MAX_LEN,
            "a message type's name is longer than 512 bytes: give the inner type a shorter one, #[message(name = \"...\")]"
        );
        let mut i = 0;
        while i < text.len() {
            self.bytes[self.len] = text[i];
            self.len += 1;
            i += 1;
        }
        self
    }

    /// Appends `number` in decimal.
    #[must_use]
    pub const fn and_number(self, number: u128) -> Self {
        let name = if number >= 10 { self.and_number(number / 10) } else { self };
        let digit = [b'0' + (number % 10) as u8];
        match str::from_utf8(&digit) {
            Ok(digit) => name.and(digit),
            Err(_) => unreachable!(),
        }
    }

    /// The name.
    pub const fn as_str(&self) -> &str {
        match str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(name) => name,
            Err(_) => unreachable!(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_ids_are_the_published_fnv_1a_vectors() {
        // From the reference implementation's test suite, test_fnv.c.
        assert_eq!(MessageTypeId::of("").get(), 0xcbf2_9ce4_8422_2325);
        assert_eq!(MessageTypeId::of("foobar").get(), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn names_concatenate_text_and_numbers() {
        const NAME: &str =
            const { &TypeName::new("[").and("f32").and("; ").and_number(1024).and("]") }.as_str();
        assert_eq!(NAME, "[f32; 1024]");
        assert_eq!(TypeName::new("").and_number(0).as_str(), "0");
        assert_eq!(TypeName::new("").and_number(u128::MAX).as_str(), u128::MAX.to_string());
    }
}
