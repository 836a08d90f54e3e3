// Sixteen floats at a time, where there are vectors of 512 bits: each operation does to every lane what vector.h's does.
// Then operations on eight and on sixteen that have one source.
#pragma once

#include "vector.h"

namespace tgi {
namespace TGI_PATH {

#if defined(TGI_VNNI)

typedef float Float16 __attribute__((vector_size(64)));
typedef uint32_t Bits16 __attribute__((vector_size(64)));
typedef int32_t Int16 __attribute__((vector_size(64)));

constexpr int64_t WIDE = 16;

TGI_INLINE Float16 load_wide(const float* source) { return (Float16)_mm512_loadu_ps(source); }
TGI_INLINE void store(float* target, Float16 value) { _mm512_storeu_ps(target, (__m512)value); }
TGI_INLINE Float16 all_wide(float value) { return (Float16)_mm512_set1_ps(value); }
TGI_INLINE Float16 fused(Float16 a, Float16 b, Float16 c) {
    return (Float16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

TGI_INLINE Float16 larger(Float16 a, Float16 b) { return (Float16)_mm512_max_ps((__m512)a, (__m512)b); }

TGI_INLINE Float16 smaller(Float16 a, Float16 b) { return (Float16)_mm512_min_ps((__m512)a, (__m512)b); }

TGI_INLINE Float8 low_half(Float16 v) { return (Float8)_mm512_castps512_ps256((__m512)v); }
TGI_INLINE Float8 high_half(Float16 v) { return (Float8)_mm512_extractf32x8_ps((__m512)v, 1); }

// `sums` and the products of pairs in bfloat16, the second of each pair first, fused; what is below 2^-126 counts as
// zero, before and after. For processors with AVX512_BF16 alone, so compilers are not told about it.
TGI_INLINE Float16 pairs_added(Float16 a, Float16 b, Float16 sums) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

TGI_INLINE Float16 pairs_added(Float16 a, const float* b, Float16 sums) {
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(a), "m"(*b));
    return sums;
}

TGI_INLINE Float8 pairs_added(Float8 a, Float8 b, Float8 sums) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

// To the nearest bfloat16, ties to even.
TGI_INLINE __m256i halves(Float16 x) {
    __m256i result;
    asm("vcvtneps2bf16 %1, %0" : "=v"(result) : "v"(x));
    return result;
}

#endif

// 2^x within 2 units in the last place, for x <= 0; 2^-125 below; NaN for NaN. The polynomial of degree 6 for what
// rounding x to an integer leaves is the one of least relative error that is 1 at 0.
template <class Floats, class Bits>
TGI_INLINE Floats power_of(Floats x) {
    x = larger(Floats{} - 125.0f, x);
    Floats rounded = x + 12582912.0f;  // 1.5 * 2^23: the low bits are the integer's
    Floats r = x - (rounded - 12582912.0f);
    Floats y = Floats{} + 1.5353361959569156e-4f;
    y = fused(y, r, Floats{} + 1.3398875016719103e-3f);
    y = fused(y, r, Floats{} + 9.61843691766262e-3f);
    y = fused(y, r, Floats{} + 5.5503323674201965e-2f);
    y = fused(y, r, Floats{} + 2.4022647738456726e-1f);
    y = fused(y, r, Floats{} + 6.931471824645996e-1f);
    y = fused(y, r, Floats{} + 1.0f);
    Bits bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    bits = (bits << 23) + 0x3f800000;
    Floats scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return y * scale;
}

typedef uint32_t Bits8 __attribute__((vector_size(32)));

TGI_INLINE Float8 power(Float8 x) { return power_of<Float8, Bits8>(x); }

template <class Floats, class Ints>
TGI_INLINE Floats power_of_two(Ints exponent) {
    Ints bits = (exponent + 127) << 23;
    Floats value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// e^x within 2 units in the last place; 0 for -inf, inf beyond 88.73, NaN for NaN.
// Source: Cephes expf (S. L. Moshier): reduction by ln 2 in two parts, polynomial of degree 5 for the rest.
template <class Floats, class Ints>
TGI_INLINE Floats exponential_of(Floats x) {
    x = smaller(Floats{} + 89.0f, larger(Floats{} - 104.0f, x));
    const Floats magic = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    Floats n = fused(x, Floats{} + 1.44269504088896341f, magic) - magic;
    Floats r = fused(n, Floats{} - 0.693359375f, x);
    r = fused(n, Floats{} + 2.12194440e-4f, r);
    Floats y = Floats{} + 1.9875691500e-4f;
    y = fused(y, r, Floats{} + 1.3981999507e-3f);
    y = fused(y, r, Floats{} + 8.3334519073e-3f);
    y = fused(y, r, Floats{} + 4.1665795894e-2f);
    y = fused(y, r, Floats{} + 1.6666665459e-1f);
    y = fused(y, r, Floats{} + 5.0000001201e-1f);
    y = fused(y, r * r, r) + 1.0f;
    // Two factors, so that results below the smallest normal number are rounded and not cut.
    Ints exponent = __builtin_convertvector(n, Ints), first = exponent >> 1;
    return y * power_of_two<Floats>(first) * power_of_two<Floats>(exponent - first);
}

TGI_INLINE Float8 exponential(Float8 x) { return exponential_of<Float8, Int8>(x); }

#if defined(TGI_VNNI)
TGI_INLINE Float16 exponential(Float16 x) { return exponential_of<Float16, Int16>(x); }
#endif

}  // namespace TGI_PATH
}  // namespace tgi
