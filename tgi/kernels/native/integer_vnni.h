// integer.h's products with AVX-512's instructions for neural networks: a panel's sixteen rows in a vector.
#pragma once

#include <type_traits>

#include "integer_panels.h"

namespace tgi {
namespace TGI_PATH {

template <bool WIDE>
TGI_INLINE __m512 sixteen(const uint8_t* source) {
    if (WIDE) return _mm512_loadu_ps(source);
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}

// sum + products of four columns. By `add_step`, products of bytes take 4 % longer on AMD's Zen 4, which has twice as
// much to fetch meanwhile, and a fifth less time on Intel's processors.
template <bool NIBBLES>
TGI_INLINE __m512i add_products(__m512i sum, __m512i weights, const int8_t* integers, int step) {
    if (NIBBLES || !IN_PAIRS) return add_step(sum, weights, integers + 4 * step);
    int32_t value;
    std::memcpy(&value, integers + 4 * step, sizeof value);
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(value));
}

template <class P>
TGI_INLINE void panel_weights(const uint8_t* group, __m512i* weights) {
    const uint8_t* quants = group + P::QUANTS;
    if (P::NIBBLES) {
        const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __m512i both = _mm512_loadu_si512(quants + 64 * i);
            weights[i] = _mm512_and_si512(both, mask);
            weights[i + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        }
    } else {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) weights[i] = _mm512_loadu_si512(quants + 64 * i);
    }
}

// Tokens whose products of a group are made side by side, where M tokens meet a panel. A sum waits for its product
// before the next is added, so others' come between; of a single token, two halves of its own. Where columns are
// fetched one by one (add_products), those halves take 8 % less time than neighbours.
template <class P, int M, class Token>
constexpr int together() {
    if (M < 4 || P::HALVES) return 1;
    if (IN_PAIRS && !P::NIBBLES) return 1;
    return std::is_same_v<Token, TokenGroup> ? 4 : 2;
}

// The integers of a group of COUNT tokens, `stride` apart, but for Q6_K.
template <class P, int COUNT>
TGI_INLINE void group_integers(const __m512i* weights, const TokenGroup* tokens, int64_t stride, __m512* integers) {
    constexpr int CHAINS = COUNT == 1 ? 2 : COUNT;
    __m512i sums[CHAINS] = {};
#pragma GCC unroll 4
    for (int t = 0; t < COUNT; t++) {
        const TokenGroup& token = tokens[t * stride];
        if (!P::MINIMUMS) sums[t] = _mm512_set1_epi32(P::NIBBLES ? token.start_nibbles : token.start_bytes);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
#pragma GCC unroll 4
        for (int t = 0; t < COUNT; t++) {
            __m512i& sum = sums[COUNT == 1 ? i % 2 : t];
            sum = add_products<P::NIBBLES>(sum, weights[i], tokens[t * stride].integers, i);
        }
    }
    if (COUNT == 1) sums[0] = _mm512_add_epi32(sums[0], sums[1]);
#pragma GCC unroll 4
    for (int t = 0; t < COUNT; t++) integers[t] = _mm512_cvtepi32_ps(sums[t]);
}

template <class P, int COUNT>
TGI_INLINE void group_integers(const __m512i* weights, const FineTokenGroup* tokens, int64_t stride, __m512* integers) {
    __m512i sums[COUNT][3] = {};
#pragma GCC unroll 2
    for (int t = 0; t < COUNT; t++)
        if (!P::MINIMUMS) sums[t][2] = _mm512_set1_epi32(tokens[t * stride].start_nibbles);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
#pragma GCC unroll 2
        for (int t = 0; t < COUNT; t++) {
#pragma GCC unroll 3
            for (int digit = 0; digit < 3; digit++)
                sums[t][digit] = add_step(sums[t][digit], weights[i], tokens[t * stride].integers[digit] + 4 * i);
        }
    }
#pragma GCC unroll 2
    for (int t = 0; t < COUNT; t++) integers[t] = _mm512_cvtepi32_ps(join_digits(sums[t]));
}

template <class P>
TGI_INLINE __m512 add_halves(
    const __m512i* weights, const TokenGroup& token, __m512 scale, __m512 second, __m512 factor, __m512 total) {
    __m512i low = _mm512_set1_epi32(token.start_halves[0]), high = _mm512_set1_epi32(token.start_halves[1]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        low = add_products<P::NIBBLES>(low, weights[i], token.integers, i);
        high = add_products<P::NIBBLES>(high, weights[i + 4], token.integers, i + 4);
    }
    total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_mul_ps(scale, factor), total);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_mul_ps(second, factor), total);
}

// One panel against M tokens; sums [M][PANEL_ROWS].
template <class P, int M, class Token>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const Token* x, const Apart& apart, float* sums) {
    constexpr bool PAIRS = IN_PAIRS && std::is_same_v<Token, FineTokenGroup> && M >= 4;
    constexpr int COUNT = together<P, M, Token>();
    __m512 total[M], integers[COUNT];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) total[m] = _mm512_setzero_ps();
    for (int64_t k = 0; k < apart.count; k++) {
        __m512 column = _mm512_loadu_ps(apart.weights + k * PANEL_ROWS);
#pragma GCC unroll 16
        for (int m = 0; m < M; m++)
            total[m] = _mm512_fmadd_ps(_mm512_set1_ps(apart.x[m * apart.count + k]), column, total[m]);
    }
    for (int64_t g = 0; g < groups; g++, panel += P::BYTES) {
        ask_for_panel<P, M>(panel);
        __m512i weights[8];
        panel_weights<P>(panel, weights);
        __m512 scale = sixteen<P::WIDE>(panel);
        __m512 second = P::HALVES ? sixteen<P::WIDE>(panel + P::SCALE_BYTES) : scale;
        __m512 minimum = P::MINIMUMS ? sixteen<P::WIDE>(panel + P::MINIMUM) : scale;
        __m512i start = PAIRS ? pair_weights(weights) : weights[0];
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            const Token& token = x[m * groups + g];
            __m512 factor = _mm512_set1_ps(token.scale);
            if constexpr (P::HALVES) {
                total[m] = add_halves<P>(weights, token, scale, second, factor, total[m]);
            } else {
                if (m % COUNT == 0) {
                    if constexpr (PAIRS) paired_integers(weights, start, P::MINIMUMS, &token, &token + groups, integers);
                    else group_integers<P, COUNT>(weights, &token, groups, integers);
                }
                total[m] = _mm512_fmadd_ps(integers[m % COUNT], _mm512_mul_ps(scale, factor), total[m]);
            }
            if (P::MINIMUMS) total[m] = _mm512_fmadd_ps(_mm512_set1_ps(token.scaled_sum), minimum, total[m]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) _mm512_storeu_ps(sums + m * PANEL_ROWS, total[m]);
}

// Sums of neighbours in three digits take the registers of eight tokens.
template <class Token>
constexpr int TOKENS_A_TILE = IN_PAIRS || std::is_same_v<Token, TokenGroup> ? 16 : 8;

}  // namespace TGI_PATH
}  // namespace tgi
