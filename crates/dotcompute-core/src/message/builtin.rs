//! Impls of `Message` for standard types.

use std::sync::Arc;

use super::Message;
use super::type_name::TypeName;

macro_rules! named_as_in_rust {
    ($($ty:ty)*) => {$(
        impl Message for $ty {
            const TYPE_NAME: &'static str = stringify!($ty);
        }
    )*};
}

named_as_in_rust!(() bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 String);

impl<T: Message> Message for Option<T> {
    const TYPE_NAME: &'static str =
        const { &TypeName::new("Option<").append(T::TYPE_NAME).append(">") }.as_str();
}

impl<T: Message> Message for Vec<T> {
    const TYPE_NAME: &'static str =
        const { &TypeName::new("Vec<").append(T::TYPE_NAME).append(">") }.as_str();
}

impl<T: Message, const N: usize> Message for [T; N] {
    const TYPE_NAME: &'static str =
        const { &TypeName::new("[").append(T::TYPE_NAME).append("; ").append_number(N as u128).append("]") }
            .as_str();
}

/// The name is that of `T`: the allocation is not part of the message.
impl<T: Message> Message for Box<T> {
    const TYPE_NAME: &'static str = T::TYPE_NAME;
}

/// The name is that of `T`: the allocation is not part of the message.
impl<T: Message + Sync> Message for Arc<T> {
    const TYPE_NAME: &'static str = T::TYPE_NAME;
}

impl<A: Message> Message for (A,) {
    const TYPE_NAME: &'static str = const { &TypeName::new("(").append(A::TYPE_NAME).append(",)") }.as_str();
}

macro_rules! tuples {
    ($(($first:ident $($rest:ident)*))*) => {$(
        impl<$first: Message, $($rest: Message),*> Message for ($first, $($rest),*) {
            const TYPE_NAME: &'static str =
                const { &TypeName::new("(").append($first::TYPE_NAME)$(.append(", ").append($rest::TYPE_NAME))*.append(")") }.as_str();
        }
    )*};
}

tuples!((A B) (A B C) (A B C D));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generic_names_are_those_of_rust() {
        assert_eq!(<()>::TYPE_NAME, "()");
        assert_eq!(<Option<Vec<u8>>>::TYPE_NAME, "Option<Vec<u8>>");
        assert_eq!(<[f32; 16]>::TYPE_NAME, "[f32; 16]");
        assert_eq!(<(u64,)>::TYPE_NAME, "(u64,)");
        assert_eq!(<(u64, String, [i8; 0], bool)>::TYPE_NAME, "(u64, String, [i8; 0], bool)");
    }

    #[test]
    fn pointers_are_transparent() {
        assert_eq!(Box::<Arc<u64>>::type_id(), u64::type_id());
    }

    #[test]
    fn different_types_have_different_ids() {
        assert_ne!(Option::<u64>::type_id(), u64::type_id());
        assert_ne!(<[u8; 3]>::type_id(), <[u8; 4]>::type_id());
    }
}
