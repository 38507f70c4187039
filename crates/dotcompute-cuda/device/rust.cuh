// Rust's meaning of arrays, numbers and their operations, for the translation of Rust handlers (#[device_handler]).
//
// An operation that can overflow stores the wrapped result and returns whether it overflowed. The translated text decides what follows.
// The module `operations` of dotcompute-core has the same functions for the CPU.
#ifndef DOTCOMPUTE_RUST_CUH
#define DOTCOMPUTE_RUST_CUH

#include "atomics.cuh"

#ifdef DOTCOMPUTE_EMULATED
#include <math.h>
#include <string.h>
#endif

namespace dc {
namespace rust {

// Type of the value of a function without one.
struct Nothing {};

template <class A, class B> struct IsSame {
    static constexpr bool value = false;
};
template <class A> struct IsSame<A, A> {
    static constexpr bool value = true;
};

// An array. It has the layout of an array in C; copies and accesses go through pointers to elements, so that it may refer to a field.
template <class T, u64 N> struct Array {
    T elements[N];
    Array() = default;
    __device__ Array(const Array &other) { copy_from(other); }
    __device__ Array &operator=(const Array &other) {
        copy_from(other);
        return *this;
    }
    __device__ T *data() { return reinterpret_cast<T *>(this); }
    __device__ const T *data() const { return reinterpret_cast<const T *>(this); }

  private:
    __device__ void copy_from(const Array &other) {
        for (u64 index = 0; index < N; ++index) data()[index] = other.data()[index];
    }
};

// A reference to elements whose number is known only when the handler runs.
template <class T> struct Slice {
    T *start;
    u64 count;
    template <class U, u64 N> __device__ Slice(Array<U, N> &array) : start(array.data()), count(N) {}
    template <class U, u64 N> __device__ Slice(const Array<U, N> &array) : start(array.data()), count(N) {}
    template <class U> __device__ Slice(const Slice<U> &other) : start(other.start), count(other.count) {}
};

// The type of a field: arrays in C become `Array`.
template <class T> struct OfImpl {
    typedef T type;
};
template <class T, size_t N> struct OfImpl<T[N]> {
    typedef Array<typename OfImpl<T>::type, N> type;
};
template <class T> struct OfImpl<const T> {
    typedef typename OfImpl<T>::type type;
};
template <class T, size_t N> struct OfImpl<const T[N]> {
    typedef Array<typename OfImpl<T>::type, N> type;
};
template <class T> using Of = typename OfImpl<T>::type;

// A value for decltype.
template <class T> T &make();

template <class T> struct ElementImpl;
template <class T, u64 N> struct ElementImpl<Array<T, N>> {
    typedef T type;
};
template <class T> struct ElementImpl<Slice<T>> {
    typedef T type;
};
template <class T> struct ElementImpl<Slice<const T>> {
    typedef T type;
};
template <class T> using Element = typename ElementImpl<T>::type;

// A field as a place.
template <class T> DC_DEVICE T &view(T &field) { return field; }
template <class T, size_t N> DC_DEVICE Of<T[N]> &view(T (&field)[N]) { return reinterpret_cast<Of<T[N]> &>(field); }
template <class T, size_t N> DC_DEVICE const Of<T[N]> &view(const T (&field)[N]) {
    return reinterpret_cast<const Of<T[N]> &>(field);
}

// The words of a constant array, as the array. They are never written.
template <class T, class Words> DC_DEVICE const T &table(const Words &words) {
    static_assert(sizeof(T) == sizeof(Words), "the sizes differ");
    return reinterpret_cast<const T &>(words);
}

template <class T, u64 N> DC_DEVICE uint64_t len(const Array<T, N> &) { return N; }
template <class T> DC_DEVICE uint64_t len(const Slice<T> &slice) { return slice.count; }

template <class T, u64 N> DC_DEVICE T &at(Array<T, N> &array, u64 index) { return array.data()[index]; }
template <class T, u64 N> DC_DEVICE const T &at(const Array<T, N> &array, u64 index) { return array.data()[index]; }
template <class T> DC_DEVICE T &at(const Slice<T> &slice, u64 index) { return slice.start[index]; }

template <class T, u64 N> DC_DEVICE void fill(Array<T, N> &array, const T &value) {
    for (u64 index = 0; index < N; ++index) array.data()[index] = value;
}

// Calls a function; its result is `Nothing` if it has none.
template <class F> DC_DEVICE auto called(F function) {
    if constexpr (IsSame<decltype(function()), void>::value) {
        function();
        return Nothing{};
    } else {
        return function();
    }
}

// A `match` covers every value, so its end is never reached without an arm.
DC_DEVICE void unreachable() {}

// Codes that are no `DeviceError`'s: 0 is success, and the smallest ones are those of faults.
DC_DEVICE bool is_reserved(int32_t code) { return code == 0 || code < -(1 << 30); }

template <class T> constexpr bool is_float = IsSame<T, float>::value || IsSame<T, double>::value;
template <class T> constexpr bool is_signed = !is_float<T> && T(-1) < T(0);

template <int bytes> struct UnsignedImpl;
template <> struct UnsignedImpl<1> {
    typedef uint8_t type;
};
template <> struct UnsignedImpl<2> {
    typedef uint16_t type;
};
template <> struct UnsignedImpl<4> {
    typedef uint32_t type;
};
template <> struct UnsignedImpl<8> {
    typedef uint64_t type;
};
// The unsigned integer of the same size.
template <class T> using Unsigned = typename UnsignedImpl<sizeof(T)>::type;
template <class T> using Bits = Unsigned<T>;

template <class To, class From> DC_DEVICE To copy_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "the sizes differ");
    To to;
    unsigned char *target = reinterpret_cast<unsigned char *>(&to);
    const unsigned char *source = reinterpret_cast<const unsigned char *>(&from);
    for (unsigned index = 0; index < sizeof(To); ++index) target[index] = source[index];
    return to;
}
template <class T> DC_DEVICE Bits<T> to_bits(T value) { return copy_bits<Bits<T>>(value); }
template <class T> DC_DEVICE T from_bits(Bits<T> bits) { return copy_bits<T>(bits); }

// A float literal, rounded to each type.
template <class T> DC_DEVICE T literal(float narrow, double wide) {
    if constexpr (sizeof(T) == sizeof(float)) return narrow;
    else return wide;
}

template <class T> constexpr T smallest() {
    return is_signed<T> ? static_cast<T>(Unsigned<T>(1) << (8 * sizeof(T) - 1)) : T(0);
}
template <class T> constexpr T largest() { return static_cast<T>(~Unsigned<T>(smallest<T>())); }

template <class T> DC_DEVICE T wrapping_add(T a, T b) { return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b)); }
template <class T> DC_DEVICE T wrapping_sub(T a, T b) { return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b)); }
// In 64 bits: the product of two 16-bit numbers could overflow `int`.
template <class T> DC_DEVICE T wrapping_mul(T a, T b) { return static_cast<T>(static_cast<u64>(a) * static_cast<u64>(b)); }

template <class T> DC_DEVICE bool add(T a, T b, T *result) {
    if constexpr (is_float<T>) {
        *result = a + b;
        return false;
    } else {
        *result = wrapping_add(a, b);
        if constexpr (is_signed<T>) return ((a ^ *result) & (b ^ *result)) < 0;
        else return *result < a;
    }
}

template <class T> DC_DEVICE bool sub(T a, T b, T *result) {
    if constexpr (is_float<T>) {
        *result = a - b;
        return false;
    } else {
        *result = wrapping_sub(a, b);
        if constexpr (is_signed<T>) return ((a ^ b) & (a ^ *result)) < 0;
        else return a < b;
    }
}

#ifdef DOTCOMPUTE_EMULATED
DC_DEVICE u64 high_product(u64 a, u64 b) { return static_cast<u64>((static_cast<unsigned __int128>(a) * b) >> 64); }
DC_DEVICE long long high_product(long long a, long long b) { return static_cast<long long>((static_cast<__int128>(a) * b) >> 64); }
#else
DC_DEVICE u64 high_product(u64 a, u64 b) { return __umul64hi(a, b); }
DC_DEVICE long long high_product(long long a, long long b) { return __mul64hi(a, b); }
#endif

template <class T> DC_DEVICE bool mul(T a, T b, T *result) {
    if constexpr (is_float<T>) {
        *result = a * b;
        return false;
    } else {
        *result = wrapping_mul(a, b);
        if constexpr (sizeof(T) < 8) {
            // Of 32-bit numbers or smaller ones, the product fits into 64 bits.
            if constexpr (is_signed<T>) return static_cast<long long>(a) * static_cast<long long>(b) != *result;
            else return static_cast<u64>(a) * static_cast<u64>(b) != *result;
        } else if constexpr (is_signed<T>) {
            return high_product(static_cast<long long>(a), static_cast<long long>(b)) != (*result < 0 ? -1 : 0);
        } else {
            return high_product(static_cast<u64>(a), static_cast<u64>(b)) != 0;
        }
    }
}

template <class T> DC_DEVICE T remainder_of(T a, T b) {
    if constexpr (sizeof(T) == sizeof(float)) return fmodf(a, b);
    else return fmod(a, b);
}

template <class T> DC_DEVICE bool is_zero_divisor(T divisor) {
    if constexpr (is_float<T>) return false;
    else return divisor == 0;
}

template <class T> DC_DEVICE bool overflows_division(T a, T b) {
    if constexpr (is_signed<T>) return a == smallest<T>() && b == T(-1);
    else return false;
}

// The divisor is not 0.
template <class T> DC_DEVICE bool div(T a, T b, T *result) {
    bool overflows = overflows_division(a, b);
    *result = overflows ? a : static_cast<T>(a / b);
    return overflows;
}

// The divisor is not 0.
template <class T> DC_DEVICE bool rem(T a, T b, T *result) {
    bool overflows = overflows_division(a, b);
    if constexpr (is_float<T>) *result = remainder_of(a, b);
    else *result = overflows ? T(0) : static_cast<T>(a % b);
    return overflows;
}

template <class T> DC_DEVICE T negative(T value) {
    if constexpr (is_float<T>) return -value;
    else return wrapping_sub(T(0), value);
}
template <class T> DC_DEVICE T wrapping_neg(T value) { return negative(value); }

template <class T> DC_DEVICE bool neg(T value, T *result) {
    *result = negative(value);
    if constexpr (is_float<T>) return false;
    else return value == smallest<T>() && value != 0;
}

template <class T> DC_DEVICE T magnitude(T value) {
    if constexpr (sizeof(T) == sizeof(float)) return fabsf(value);
    else return fabs(value);
}

template <class T> DC_DEVICE T wrapping_abs(T value) {
    if constexpr (is_float<T>) return magnitude(value);
    else return value < 0 ? negative(value) : value;
}

template <class T> DC_DEVICE bool abs(T value, T *result) {
    *result = wrapping_abs(value);
    if constexpr (is_signed<T>) return value == smallest<T>();
    else return false;
}

template <class T> DC_DEVICE T wrapping_shl(T value, uint32_t bits) {
    return static_cast<T>(static_cast<u64>(value) << (bits & (8 * sizeof(T) - 1)));
}
// The shift of a signed number keeps its sign.
template <class T> DC_DEVICE T wrapping_shr(T value, uint32_t bits) {
    return static_cast<T>(value >> (bits & (8 * sizeof(T) - 1)));
}

template <class U> DC_DEVICE bool overflows_shift(U bits, unsigned width) {
    if constexpr (is_signed<U>) {
        if (bits < 0) return true;
    }
    return static_cast<u64>(bits) >= width;
}
template <class T, class U> DC_DEVICE bool shl(T value, U bits, T *result) {
    *result = wrapping_shl(value, static_cast<uint32_t>(bits));
    return overflows_shift(bits, 8 * sizeof(T));
}
template <class T, class U> DC_DEVICE bool shr(T value, U bits, T *result) {
    *result = wrapping_shr(value, static_cast<uint32_t>(bits));
    return overflows_shift(bits, 8 * sizeof(T));
}

template <class T> DC_DEVICE T not_(T value) {
    if constexpr (IsSame<T, bool>::value) return !value;
    else return static_cast<T>(~value);
}

template <class T> DC_DEVICE bool is_nan(T value) { return value != value; }
template <class T> DC_DEVICE bool is_infinite(T value) { return !is_nan(value) && is_nan(value - value); }
template <class T> DC_DEVICE bool is_finite(T value) { return !is_nan(value - value); }
template <class T> DC_DEVICE bool is_sign_negative(T value) { return to_bits(value) >> (8 * sizeof(T) - 1) != 0; }
template <class T> DC_DEVICE bool is_sign_positive(T value) { return !is_sign_negative(value); }

// Rust's `as`: integers wrap, floats become the nearest integer towards zero within the range, and 0 if they are not a number.
template <class To, class From> DC_DEVICE To cast(From value) {
    if constexpr (is_float<From> && !is_float<To>) {
        // The first float beyond the range; the bounds themselves may not be floats.
        From beyond = static_cast<From>(largest<To>() / 2 + 1) * From(2);
        if (is_nan(value)) return To(0);
        if (value >= beyond) return largest<To>();
        if (value <= static_cast<From>(smallest<To>())) return smallest<To>();
        return static_cast<To>(value);
    } else {
        return static_cast<To>(value);
    }
}

template <class T> DC_DEVICE T min(T a, T b) {
    if constexpr (is_float<T>) return a < b || is_nan(b) ? a : b;
    else return b < a ? b : a;
}
template <class T> DC_DEVICE T max(T a, T b) {
    if constexpr (is_float<T>) return a > b || is_nan(b) ? a : b;
    else return b > a ? b : a;
}

template <class T> DC_DEVICE T saturating_add(T a, T b) {
    T sum;
    if (!add(a, b, &sum)) return sum;
    return b < 0 ? smallest<T>() : largest<T>();
}
template <class T> DC_DEVICE T saturating_sub(T a, T b) {
    T difference;
    if (!sub(a, b, &difference)) return difference;
    if constexpr (is_signed<T>) return b < 0 ? largest<T>() : smallest<T>();
    else return T(0);
}
template <class T> DC_DEVICE Unsigned<T> abs_diff(T a, T b) {
    Unsigned<T> x = static_cast<Unsigned<T>>(a), y = static_cast<Unsigned<T>>(b);
    return static_cast<Unsigned<T>>(a < b ? y - x : x - y);
}

template <class T> DC_DEVICE T rotate_left(T value, uint32_t bits) {
    unsigned width = 8 * sizeof(T);
    bits &= width - 1;
    Unsigned<T> word = static_cast<Unsigned<T>>(value);
    if (bits == 0) return value;
    return static_cast<T>(static_cast<Unsigned<T>>(static_cast<u64>(word) << bits) | static_cast<Unsigned<T>>(word >> (width - bits)));
}
template <class T> DC_DEVICE T rotate_right(T value, uint32_t bits) { return rotate_left(value, 8 * sizeof(T) - (bits & (8 * sizeof(T) - 1))); }

#ifdef DOTCOMPUTE_EMULATED
DC_DEVICE uint32_t ones(u64 word) { return static_cast<uint32_t>(__builtin_popcountll(word)); }
DC_DEVICE uint32_t leading(u64 word) { return word == 0 ? 64 : static_cast<uint32_t>(__builtin_clzll(word)); }
#else
DC_DEVICE uint32_t ones(u64 word) { return static_cast<uint32_t>(__popcll(word)); }
DC_DEVICE uint32_t leading(u64 word) { return static_cast<uint32_t>(__clzll(static_cast<long long>(word))); }
#endif
template <class T> DC_DEVICE uint32_t count_ones(T value) { return ones(static_cast<Unsigned<T>>(value)); }
template <class T> DC_DEVICE uint32_t count_zeros(T value) { return static_cast<uint32_t>(8 * sizeof(T)) - count_ones(value); }
template <class T> DC_DEVICE uint32_t leading_zeros(T value) {
    return leading(static_cast<Unsigned<T>>(value)) - static_cast<uint32_t>(64 - 8 * sizeof(T));
}
template <class T> DC_DEVICE uint32_t trailing_zeros(T value) {
    Unsigned<T> word = static_cast<Unsigned<T>>(value);
    // The bits below the lowest one.
    return ones(static_cast<Unsigned<T>>(~word & static_cast<Unsigned<T>>(word - 1)));
}

template <class T> DC_DEVICE T sqrt(T value) {
    if constexpr (sizeof(T) == sizeof(float)) return ::sqrtf(value);
    else return ::sqrt(value);
}
template <class T> DC_DEVICE T floor(T value) {
    if constexpr (sizeof(T) == sizeof(float)) return ::floorf(value);
    else return ::floor(value);
}
template <class T> DC_DEVICE T ceil(T value) {
    if constexpr (sizeof(T) == sizeof(float)) return ::ceilf(value);
    else return ::ceil(value);
}
template <class T> DC_DEVICE T trunc(T value) {
    if constexpr (sizeof(T) == sizeof(float)) return ::truncf(value);
    else return ::trunc(value);
}
template <class T> DC_DEVICE T round(T value) {
    if constexpr (sizeof(T) == sizeof(float)) return ::roundf(value);
    else return ::round(value);
}
template <class T> DC_DEVICE T mul_add(T a, T b, T c) {
    if constexpr (sizeof(T) == sizeof(float)) return ::fmaf(a, b, c);
    else return ::fma(a, b, c);
}
template <class T> DC_DEVICE T copysign(T value, T sign) {
    Bits<T> mask = static_cast<Bits<T>>(Bits<T>(1) << (8 * sizeof(T) - 1));
    return from_bits<T>((to_bits(value) & ~mask) | (to_bits(sign) & mask));
}
template <class T> DC_DEVICE T recip(T value) { return T(1) / value; }
template <class T> DC_DEVICE T signum(T value) {
    if constexpr (is_float<T>) return is_nan(value) ? value : copysign(T(1), value);
    else return static_cast<T>((value > 0) - (value < 0));
}
template <class T> DC_DEVICE T powi(T value, int32_t exponent) {
    uint32_t rest = exponent < 0 ? 0u - static_cast<uint32_t>(exponent) : static_cast<uint32_t>(exponent);
    T square = value, result = T(1);
    for (; rest != 0; rest >>= 1) {
        if (rest & 1) result *= square;
        square *= square;
    }
    return exponent < 0 ? T(1) / result : result;
}

// Starts a range: makes `last` its last number. Returns whether it has one.
template <class T> DC_DEVICE bool first_of_range(T first, T &last, bool is_closed) {
    if (is_closed) return first <= last;
    if (first >= last) return false;
    last = static_cast<T>(last - 1);
    return true;
}
// Advances to the next number of a range. Returns whether there is one.
template <class T> DC_DEVICE bool forward(T &number, T last, u64 step) {
    u64 remaining = static_cast<u64>(wrapping_sub(static_cast<Unsigned<T>>(last), static_cast<Unsigned<T>>(number)));
    if (remaining < step) return false;
    number = static_cast<T>(static_cast<u64>(number) + step);
    return true;
}
template <class T> DC_DEVICE bool back(T &number, T first, u64) {
    if (number == first) return false;
    number = static_cast<T>(number - 1);
    return true;
}

} // namespace rust
} // namespace dc

#endif
