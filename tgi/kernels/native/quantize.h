// Activations in 8 or 22 bits: groups of 32 values with a scale. Those in 8 are `round_activations` of reference.py.
#pragma once

#include "kernels.h"
#if defined(TGI_VNNI)
#include "nibble_pairs.h"
#include "quantize_wide.h"
#endif
#include "vector.h"

namespace tgi {
namespace TGI_PATH {

// Rounds to nearest, ties to even.
#if defined(TGI_AVX2)
// 32 integers of 8 bits are stored; the sums of their halves.
TGI_INLINE void store_bytes(const __m256i* four, int8_t* integers, int32_t* low, int32_t* high) {
    // Packing leaves the 128-bit halves of each source apart: words of four bytes in the order 0 2 4 6 1 3 5 7.
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(four[0], four[1]), _mm256_packs_epi32(four[2], four[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(integers), bytes);
    __m256i unsigned_bytes = _mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(128)));
    __m256i sums = _mm256_sad_epu8(unsigned_bytes, _mm256_setzero_si256());
    __m128i first = _mm256_castsi256_si128(sums), second = _mm256_extracti128_si256(sums, 1);
    *low = _mm_cvtsi128_si32(first) + _mm_extract_epi32(first, 2) - 16 * 128;
    *high = _mm_cvtsi128_si32(second) + _mm_extract_epi32(second, 2) - 16 * 128;
}

TGI_INLINE void round_group(const float* values, float inverse, int8_t* integers, int32_t* low, int32_t* high) {
    __m256i four[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) four[i] = _mm256_cvtps_epi32(load(values + 8 * i) * all(inverse));
    store_bytes(four, integers, low, high);
}

#if !defined(TGI_VNNI)
// Integers of 22 bits are cut in three digits, from the lowest. Returns: their sum.
TGI_INLINE int32_t round_group(const float* values, float inverse, int8_t (*integers)[GROUP]) {
    __m256i four[4], byte[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) four[i] = _mm256_cvtps_epi32(load(values + 8 * i) * all(inverse));
    int32_t sums[3];
#pragma GCC unroll 3
    for (int digit = 2; digit >= 0; digit--) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            constexpr int ABOVE = 32 - DIGIT_BITS;
            byte[i] = digit ? _mm256_srai_epi32(_mm256_slli_epi32(four[i], ABOVE), ABOVE) : four[i];
            four[i] = _mm256_srai_epi32(_mm256_sub_epi32(four[i], byte[i]), DIGIT_BITS);
        }
        int32_t low, high;
        store_bytes(byte, integers[digit], &low, &high);
        sums[digit] = low + high;
    }
    return (sums[0] * (1 << DIGIT_BITS) + sums[1]) * (1 << DIGIT_BITS) + sums[2];
}

// Bits of the largest magnitude: they are ordered as the magnitudes are, NaN above infinity.
TGI_INLINE int32_t largest_bits(const float* values) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 8 * i));
        most = _mm256_max_epi32(most, _mm256_and_si256(bits, mask));
    }
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
#endif
#else
// Adding 1.5 * 2^23, or 2^52, leaves no bits for a fraction.
TGI_INLINE void round_group(const float* values, float inverse, int8_t* integers, int32_t* low, int32_t* high) {
    const float magic = 12582912.0f;
    *low = *high = 0;
    for (int i = 0; i < GROUP; i++) {
        int32_t integer = static_cast<int32_t>((values[i] * inverse + magic) - magic);
        integers[i] = static_cast<int8_t>(integer);
        *(i < GROUP / 2 ? low : high) += integer;
    }
}

TGI_INLINE int32_t round_group(const float* values, float inverse, int8_t (*integers)[GROUP]) {
    const double magic = 6755399441055744.0;
    constexpr int32_t HALF = 1 << (DIGIT_BITS - 1);
    int32_t total = 0;
    for (int i = 0; i < GROUP; i++) {
        int32_t rest = static_cast<int32_t>((static_cast<double>(values[i] * inverse) + magic) - magic);
        total += rest;
        for (int digit = 2; digit > 0; digit--) {
            integers[digit][i] = static_cast<int8_t>(((rest + HALF) & (2 * HALF - 1)) - HALF);
            rest = (rest - integers[digit][i]) / (2 * HALF);
        }
        integers[0][i] = static_cast<int8_t>(rest);
    }
    return total;
}

TGI_INLINE int32_t largest_bits(const float* values) {
    int32_t most = 0;
    for (int i = 0; i < GROUP; i++) {
        int32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most;
}
#endif

// Zeros or NaN throughout for groups that have no step. Returns: whether it has. `most`: bits of the largest magnitude.
template <class Token>
TGI_INLINE bool has_step(int32_t most, float* largest, Token& out) {
    std::memcpy(largest, &most, sizeof *largest);
    if (most < 0x7f800000 && *largest >= SMALLEST) return true;
    std::memset(static_cast<void*>(&out), 0, sizeof out);
    if (most >= 0x7f800000) out.scale = out.scaled_sum = __builtin_nanf("");
    return false;
}

// 32 values.
TGI_INLINE void quantize_group(const float* values, int32_t most, TokenGroup& out) {
    float largest;
    int32_t low, high;
    if (!has_step(most, &largest, out)) return;
    round_group(values, 127.0f / largest, out.integers, &low, &high);
    out.scale = largest / 127.0f;
    out.scaled_sum = out.scale * static_cast<float>(low + high);
    out.start_nibbles = -8 * (low + high);
    out.start_bytes = -128 * (low + high);
    out.start_halves[0] = -128 * low;
    out.start_halves[1] = -128 * high;
}

TGI_INLINE void quantize_group(const float* values, int32_t most, FineTokenGroup& out) {
    float largest;
    if (!has_step(most, &largest, out)) return;
    int32_t total = round_group(values, FINEST / largest, out.integers);
    out.scale = largest / FINEST;
    out.scaled_sum = out.scale * static_cast<float>(total);
    out.start_nibbles = -8 * total;
#if defined(TGI_VNNI)
    out.start_pairs = start_of_pairs(out.integers);
#endif
}

// Values [first, first + count) of a row without its outliers. Returns: them, or where they lie already. `next`: the first
// outlier of the task that is not before `first`.
template <class Token>
TGI_INLINE const float* without_outliers(
    const QuantizeTask<Token>& task, const float* row, int64_t first, int64_t count, int64_t* next, float* copy) {
    if (*next == task.outlier_count || task.outliers[*next] >= first + count) return row + first;
    std::memcpy(copy, row + first, static_cast<size_t>(count) * sizeof(float));
    for (; *next < task.outlier_count && task.outliers[*next] < first + count; ++*next)
        copy[task.outliers[*next] - first] = 0.0f;
    return copy;
}

// Unit: one token.
template <class Token>
static void quantize_units(const void* argument, int64_t begin, int64_t end) {
    const auto& task = *static_cast<const QuantizeTask<Token>*>(argument);
    int64_t groups = (task.columns + GROUP - 1) / GROUP;
    for (int64_t token = begin; token < end; token++) {
        const float* x = task.x + token * task.x_stride;
        Token* out = task.out + token * groups;
        // Finding the largest takes as long as a group's rest: a processor looks too few instructions ahead for two.
        constexpr int64_t AHEAD = 16;
        int32_t most[AHEAD];
        float copy[AHEAD * GROUP];
        int64_t g = 0, whole = task.columns / GROUP, next = 0;
        for (int64_t k = 0; k < task.outlier_count; k++)
            task.apart[token * task.outlier_count + k] = x[task.outliers[k]];
        while (g < whole) {
            int64_t count = whole - g < AHEAD ? whole - g : AHEAD;
            const float* values = without_outliers(task, x, g * GROUP, count * GROUP, &next, copy);
            for (int64_t i = 0; i < count; i++) most[i] = largest_bits(values + i * GROUP);
            for (int64_t i = 0; i < count; i++, g++) quantize_group(values + i * GROUP, most[i], out[g]);
        }
        if (g == groups) continue;
        float rest[GROUP] = {};  // what is missing at the end of a row counts as zero
        std::memcpy(rest, x + g * GROUP, static_cast<size_t>(task.columns - g * GROUP) * sizeof(float));
        for (; next < task.outlier_count; next++) rest[task.outliers[next] - g * GROUP] = 0.0f;
        quantize_group(rest, largest_bits(rest), out[g]);
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
