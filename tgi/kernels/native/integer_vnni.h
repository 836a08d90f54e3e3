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

// sum + products of four columns. Bytes take 4 % longer by `add_step`: they are twice as much to fetch meanwhile.
template <bool NIBBLES>
TGI_INLINE __m512i add_products(__m512i sum, __m512i weights, const int8_t* integers, int step) {
    if (NIBBLES) return add_step(sum, weights, integers + 4 * step);
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

// A group's integers, but for Q6_K.
template <class P, int M>
TGI_INLINE __m512 group_integers(const __m512i* weights, const TokenGroup& token) {
    __m512i sum = P::MINIMUMS ? _mm512_setzero_si512()
                              : _mm512_set1_epi32(P::NIBBLES ? token.start_nibbles : token.start_bytes);
    // With few tokens two chains: one alone would wait for itself. Some processors do not look ahead far enough to find
    // the next token's instructions, either, where its columns are loaded by instructions of their own.
    constexpr bool TWO = M <= 2 || !P::NIBBLES;
    __m512i other = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512i& chain = TWO && i % 2 ? other : sum;
        chain = add_products<P::NIBBLES>(chain, weights[i], token.integers, i);
    }
    if (TWO) sum = _mm512_add_epi32(sum, other);
    return _mm512_cvtepi32_ps(sum);
}

template <class P, int M>
TGI_INLINE __m512 group_integers(const __m512i* weights, const FineTokenGroup& token) {
    __m512i sums[3] = {};
    if (!P::MINIMUMS) sums[2] = _mm512_set1_epi32(token.start_nibbles);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
#pragma GCC unroll 3
        for (int digit = 0; digit < 3; digit++)
            sums[digit] = add_step(sums[digit], weights[i], token.integers[digit] + 4 * i);
    }
    return _mm512_cvtepi32_ps(join_digits(sums));
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
    constexpr bool PAIRS = std::is_same_v<Token, FineTokenGroup> && M >= 4;
    __m512 total[M], integers[2];
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
                if constexpr (!PAIRS) integers[m % 2] = group_integers<P, M>(weights, token);
                else if (m % 2 == 0) paired_integers(weights, start, P::MINIMUMS, &token, &token + groups, integers);
                total[m] = _mm512_fmadd_ps(integers[m % 2], _mm512_mul_ps(scale, factor), total[m]);
            }
            if (P::MINIMUMS) total[m] = _mm512_fmadd_ps(_mm512_set1_ps(token.scaled_sum), minimum, total[m]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) _mm512_storeu_ps(sums + m * PANEL_ROWS, total[m]);
}

constexpr int64_t TOKENS_A_TILE = 16;

}  // namespace TGI_PATH
}  // namespace tgi
