// Eight floats at a time. The compiler's vector extensions give every operation one order on every machine; AVX2
// only makes it fast, and fuses multiply and add.
//
// Included by path_*.cpp alone. Everything is `static`: code compiled for AVX2 must never be picked by the linker for
// the portable path, so nothing here may instantiate templates of the standard library.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(TGI_AVX2)
#include <immintrin.h>
#endif

namespace tgi {
namespace TGI_PATH {

typedef float Float8 __attribute__((vector_size(32)));
typedef int32_t Int8 __attribute__((vector_size(32)));

// Whether two products are made by one multiplication where that takes less time, in attention (AVX512_BF16) and in sums
// of integers (nibble_pairs.h): where multipliers are what there is least of.
#if defined(TGI_PAIRS)
constexpr bool IN_PAIRS = true;
#else
constexpr bool IN_PAIRS = false;
#endif

#define TGI_INLINE static inline __attribute__((always_inline))

TGI_INLINE Float8 load(const float* source) {
    Float8 value;
    std::memcpy(&value, source, sizeof value);
    return value;
}

TGI_INLINE void store(float* target, Float8 value) { std::memcpy(target, &value, sizeof value); }

// The first `count` < 8 floats; the other lanes are zero.
TGI_INLINE Float8 load_part(const float* source, int64_t count) {
    Float8 value = {};
    std::memcpy(&value, source, static_cast<size_t>(count) * sizeof(float));
    return value;
}

TGI_INLINE void store_part(float* target, Float8 value, int64_t count) {
    std::memcpy(target, &value, static_cast<size_t>(count) * sizeof(float));
}

TGI_INLINE Float8 all(float value) { return Float8{value, value, value, value, value, value, value, value}; }

TGI_INLINE Float8 fused(Float8 a, Float8 b, Float8 c) {
#if defined(TGI_AVX2)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

// The larger of each pair; `b` where a lane of either is NaN.
TGI_INLINE Float8 larger(Float8 a, Float8 b) {
#if defined(TGI_AVX2)
    return _mm256_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}

TGI_INLINE Float8 smaller(Float8 a, Float8 b) {
#if defined(TGI_AVX2)
    return _mm256_min_ps(a, b);
#else
    return a < b ? a : b;
#endif
}

// The one order in which eight lanes are added up: ((0+1)+(2+3)) + ((4+5)+(6+7)).
TGI_INLINE float sum(Float8 v) { return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])); }

// The same of four vectors, set or added to `out`.
TGI_INLINE void sum_four(const Float8* v, float* out, bool set) {
#if defined(TGI_AVX2)
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    __m128 sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
    _mm_storeu_ps(out, set ? sums : _mm_add_ps(_mm_loadu_ps(out), sums));
#else
    for (int i = 0; i < 4; i++) out[i] = set ? sum(v[i]) : out[i] + sum(v[i]);
#endif
}

// NaN lanes may be passed over: whoever needs to know finds them in a sum.
TGI_INLINE float largest(Float8 v) {
#if defined(TGI_AVX2)
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    float result = v[0];
    for (int i = 1; i < 8; i++) result = v[i] > result ? v[i] : result;
    return result;
#endif
}

TGI_INLINE float half_to_float(uint16_t half) {
#if defined(TGI_AVX2)
    return _cvtsh_ss(half);
#else
    uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, rest = half & 0x7fffu;
    float value;
    if (rest >= 0x7c00u) {  // inf and NaN
        uint32_t bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
    // As if float32 had half's exponent bias: exact, for subnormal numbers too.
    uint32_t bits = rest << 13;
    std::memcpy(&value, &bits, sizeof value);
    value *= 5.192296858534828e+33f;  // 2^112
    std::memcpy(&bits, &value, sizeof bits);
    bits |= sign;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

// To nearest, ties to even.
TGI_INLINE uint16_t float_to_half(float value) {
#if defined(TGI_AVX2)
    return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (rest >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65536 and more
    if (rest < 0x38800000u) {  // subnormal: adding 0.5 leaves exactly the bits that half keeps
        float magnitude;
        std::memcpy(&magnitude, &rest, sizeof magnitude);
        magnitude += 0.5f;
        std::memcpy(&rest, &magnitude, sizeof rest);
        return static_cast<uint16_t>(sign | (rest - 0x3f000000u));
    }
    rest += 0xfffu + (rest >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((rest - 0x38000000u) >> 13));
#endif
}

TGI_INLINE float brain_to_float(uint16_t brain) {
    uint32_t bits = static_cast<uint32_t>(brain) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// To nearest, ties to even; every NaN becomes 0x7fc0, as in torch.
TGI_INLINE uint16_t float_to_brain(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace TGI_PATH
}  // namespace tgi
