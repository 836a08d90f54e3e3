// integer.h's products with AVX2: eight rows of a panel in a vector, products of pairs added in 16 bits.
#pragma once

#include "integer_panels.h"

namespace tgi {
namespace TGI_PATH {

template <bool WIDE>
TGI_INLINE __m256 eight(const uint8_t* source, int half) {
    if (WIDE) return _mm256_loadu_ps(reinterpret_cast<const float*>(source) + 8 * half);
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source) + half));
}

TGI_INLINE __m256i four_times_eight(const int8_t* integers, int step) {
    int32_t value;
    std::memcpy(&value, integers + 4 * step, sizeof value);
    return _mm256_set1_epi32(value);
}

// Eight rows of a group: four columns in each 32-bit lane.
template <class P>
TGI_INLINE void panel_weights(const uint8_t* group, int half, __m256i* weights) {
    const uint8_t* quants = group + P::QUANTS + 32 * half;
    const __m256i mask = _mm256_set1_epi8(15);
    if (P::NIBBLES) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + 64 * i));
            weights[i] = _mm256_and_si256(both, mask);
            weights[i + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        }
    } else {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) weights[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + 64 * i));
    }
}

// Products of steps [FIRST, FIRST + 4), added up in 32 bits. No sum of 16 bits overflows: a step adds at most
// 2 * 128 times the largest weight to a lane, which is 15 (nibbles) or 31 (bytes with minimums).
template <int FIRST, int STEPS>
TGI_INLINE __m256i small_products(const __m256i* weights, const int8_t* integers) {
    __m256i total = _mm256_maddubs_epi16(weights[FIRST], four_times_eight(integers, FIRST));
#pragma GCC unroll 8
    for (int i = FIRST + 1; i < FIRST + STEPS; i++)
        total = _mm256_add_epi16(total, _mm256_maddubs_epi16(weights[i], four_times_eight(integers, i)));
    return _mm256_madd_epi16(total, _mm256_set1_epi16(1));
}

// The same of signed weights: 2 * 127 * 128 fits, one step at a time.
template <int FIRST, int STEPS>
TGI_INLINE __m256i signed_products(const __m256i* magnitudes, const __m256i* weights, const int8_t* integers) {
    __m256i total = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = FIRST; i < FIRST + STEPS; i++) {
        __m256i x = _mm256_sign_epi8(four_times_eight(integers, i), weights[i]);
        __m256i pairs = _mm256_maddubs_epi16(magnitudes[i], x);
        total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return total;
}

template <class P>
TGI_INLINE __m256 group_integers(const __m256i* magnitudes, const __m256i* weights, const TokenGroup& token) {
    __m256i total;
    if (P::NIBBLES) {
        total = small_products<0, 8>(weights, token.integers);
        if (!P::MINIMUMS) total = _mm256_add_epi32(total, _mm256_set1_epi32(token.start_nibbles));
    } else if (P::MINIMUMS) {
        total = _mm256_add_epi32(small_products<0, 4>(weights, token.integers), small_products<4, 4>(weights, token.integers));
    } else {
        total = signed_products<0, 8>(magnitudes, weights, token.integers);
    }
    return _mm256_cvtepi32_ps(total);
}

// One panel against M tokens; sums [M][PANEL_ROWS].
template <class P, int M>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const TokenGroup* x, const Apart& apart, float* sums) {
    __m256 total[2 * M];
    for (int m = 0; m < 2 * M; m++) total[m] = _mm256_setzero_ps();
    for (int64_t k = 0; k < apart.count; k++) {
        for (int m = 0; m < 2 * M; m++) {
            __m256 value = _mm256_set1_ps(apart.x[m / 2 * apart.count + k]);
            __m256 column = _mm256_loadu_ps(apart.weights + k * PANEL_ROWS + m % 2 * 8);
            total[m] = _mm256_fmadd_ps(value, column, total[m]);
        }
    }
    for (int64_t g = 0; g < groups; g++, panel += P::BYTES) {
        ask_for_panel<P, M>(panel);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i weights[8], magnitudes[8];
            panel_weights<P>(panel, half, weights);
            if (!P::NIBBLES && !P::MINIMUMS) {
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++) {
                    weights[i] = _mm256_xor_si256(weights[i], _mm256_set1_epi8(static_cast<char>(128)));
                    magnitudes[i] = _mm256_abs_epi8(weights[i]);
                }
            }
            __m256 scale = eight<P::WIDE>(panel, half);
            __m256 second = P::HALVES ? eight<P::WIDE>(panel + P::SCALE_BYTES, half) : scale;
            __m256 minimum = P::MINIMUMS ? eight<P::WIDE>(panel + P::MINIMUM, half) : scale;
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) {
                const TokenGroup& token = x[m * groups + g];
                __m256 factor = _mm256_set1_ps(token.scale), sum = total[2 * m + half];
                if (P::HALVES) {
                    __m256 low = _mm256_cvtepi32_ps(signed_products<0, 4>(magnitudes, weights, token.integers));
                    __m256 high = _mm256_cvtepi32_ps(signed_products<4, 4>(magnitudes, weights, token.integers));
                    sum = _mm256_fmadd_ps(low, _mm256_mul_ps(scale, factor), sum);
                    sum = _mm256_fmadd_ps(high, _mm256_mul_ps(second, factor), sum);
                } else {
                    __m256 integers = group_integers<P>(magnitudes, weights, token);
                    sum = _mm256_fmadd_ps(integers, _mm256_mul_ps(scale, factor), sum);
                }
                if (P::MINIMUMS) sum = _mm256_fmadd_ps(_mm256_set1_ps(token.scaled_sum), minimum, sum);
                total[2 * m + half] = sum;
            }
        }
    }
    for (int m = 0; m < 2 * M; m++) _mm256_storeu_ps(sums + 8 * m, total[m]);
}

// Three digits' sums of pairs as one integer.
TGI_INLINE __m256i join_pairs(__m256i high, __m256i middle, __m256i low) {
    high = _mm256_madd_epi16(high, _mm256_set1_epi16(1 << 2 * DIGIT_BITS));
    middle = _mm256_madd_epi16(middle, _mm256_set1_epi16(1 << DIGIT_BITS));
    low = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
    return _mm256_add_epi32(_mm256_add_epi32(high, middle), low);
}

// A token in 22 bits against a group, whose nibbles lie in `bytes` [step][half of the rows]. Loads are what it waits for,
// so a token's columns serve both halves at once.
template <class P>
TGI_INLINE void fine_products(const __m256i* bytes, const FineTokenGroup& token, __m256* integers) {
    __m256i pairs[6];
#pragma GCC unroll 8
    for (int step = 0; step < 8; step++) {
#pragma GCC unroll 3
        for (int part = 0; part < 3; part++) {
            __m256i columns = four_times_eight(token.integers[part], step);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                __m256i products = _mm256_maddubs_epi16(bytes[2 * step + half], columns);
                __m256i& sum = pairs[2 * part + half];
                sum = step == 0 ? products : _mm256_add_epi16(sum, products);
                __asm__("" : "+x"(sum));  // or GCC makes all products first, and has no registers for them
            }
        }
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m256i total = join_pairs(pairs[half], pairs[2 + half], pairs[4 + half]);
        if (!P::MINIMUMS) total = _mm256_add_epi32(total, _mm256_set1_epi32(token.start_nibbles));
        integers[half] = _mm256_cvtepi32_ps(total);
    }
}

template <class P, int M>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const FineTokenGroup* x, const Apart&, float* sums) {
    for (int m = 0; m < 2 * M; m++) _mm256_storeu_ps(sums + 8 * m, _mm256_setzero_ps());
    for (int64_t g = 0; g < groups; g++, panel += P::BYTES) {
        ask_for_panel<P, M>(panel);
        __m256i bytes[16], weights[8];
        __m256 scale[2], minimum[2], integers[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            panel_weights<P>(panel, half, weights);
#pragma GCC unroll 8
            for (int step = 0; step < 8; step++) bytes[2 * step + half] = weights[step];
            scale[half] = eight<P::WIDE>(panel, half);
            minimum[half] = P::MINIMUMS ? eight<P::WIDE>(panel + P::MINIMUM, half) : scale[half];
        }
#pragma GCC unroll 1
        for (int m = 0; m < M; m++) {
            const FineTokenGroup& token = x[m * groups + g];
            fine_products<P>(bytes, token, integers);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                float* at = sums + 16 * m + 8 * half;
                __m256 factor = _mm256_mul_ps(scale[half], _mm256_set1_ps(token.scale));
                __m256 sum = _mm256_fmadd_ps(integers[half], factor, _mm256_loadu_ps(at));
                if (P::MINIMUMS) sum = _mm256_fmadd_ps(_mm256_set1_ps(token.scaled_sum), minimum[half], sum);
                _mm256_storeu_ps(at, sum);
            }
        }
    }
}

template <class Token>
constexpr int TOKENS_A_TILE = 8;

}  // namespace TGI_PATH
}  // namespace tgi
