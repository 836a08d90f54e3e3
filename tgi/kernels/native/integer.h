// Activations in 8 bits times weights in panels of small integers; `tgi.kernels.matmul` defines the result.
//
// Element (token, row) is a sum over groups of 32 columns, in order. Within a group the integers are multiplied and
// added exactly, so how that is done is each path's own affair. Then, every step rounded once and each `fma` fused:
//
//   sum = fma(float(integers), weight scale * token scale, sum)        (Q6_K: twice, for 16 columns each)
//   sum = fma(token scale * float(sum of the token's integers), weight minimum, sum)        (where there are minimums)
//
// Hence every path, tile and thread count gives the same bits.
#pragma once

#include <cmath>

#include "finish.h"
#include "quantize.h"

namespace tgi {
namespace TGI_PATH {

// --- Panels --------------------------------------------------------------------------------------------------------

// What a panel holds; see PanelKind.
template <bool NIBBLES_, bool WIDE_, bool MINIMUMS_, bool HALVES_>
struct Panel {
    static constexpr bool NIBBLES = NIBBLES_, WIDE = WIDE_, MINIMUMS = MINIMUMS_, HALVES = HALVES_;
    static constexpr int64_t SCALE_BYTES = PANEL_ROWS * (WIDE ? 4 : 2);
    static constexpr int64_t MINIMUM = SCALE_BYTES * (HALVES ? 2 : 1);
    static constexpr int64_t QUANTS = MINIMUM + (MINIMUMS ? SCALE_BYTES : 0);
    static constexpr int64_t BYTES = QUANTS + PANEL_ROWS * GROUP / (NIBBLES ? 2 : 1);
};

// Ask for what comes after a group: weights come from memory. With few tokens that is all the time there is, and the
// next groups wait in the second-level cache; with more, a group is asked for shortly before it is used.
template <class P, int M>
TGI_INLINE void ask_for_panel(const uint8_t* group) {
    constexpr int64_t AHEAD = M <= 2 ? 6144 : 2048;
    for (int64_t i = 0; i < P::BYTES; i += 64) __builtin_prefetch(group + AHEAD + i, 0, M <= 2 ? 2 : 3);
}

#if defined(TGI_VNNI)

template <bool WIDE>
TGI_INLINE __m512 sixteen(const uint8_t* source) {
    if (WIDE) return _mm512_loadu_ps(source);
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}

// sum + products of four columns. Compilers load the token's columns by an instruction of their own, which the product
// can do itself: 3 % less for nibbles, 4 % more for bytes, whose weights are twice as much to fetch meanwhile.
template <bool NIBBLES>
TGI_INLINE __m512i add_products(__m512i sum, __m512i weights, const TokenGroup& x, int step) {
    const auto* four = reinterpret_cast<const int8_t(*)[4]>(x.integers + 4 * step);
    if (NIBBLES) {
        asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*four));
        return sum;
    }
    int32_t value;
    std::memcpy(&value, four, sizeof value);
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

// One panel against M tokens; sums [M][PANEL_ROWS].
template <class P, int M>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const TokenGroup* x, float* sums) {
    __m512 total[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) total[m] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, panel += P::BYTES) {
        ask_for_panel<P, M>(panel);
        __m512i weights[8];
        panel_weights<P>(panel, weights);
        __m512 scale = sixteen<P::WIDE>(panel);
        __m512 second = P::HALVES ? sixteen<P::WIDE>(panel + P::SCALE_BYTES) : scale;
        __m512 minimum = P::MINIMUMS ? sixteen<P::WIDE>(panel + P::MINIMUM) : scale;
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            const TokenGroup& token = x[m * groups + g];
            __m512 factor = _mm512_set1_ps(token.scale);
            if (P::HALVES) {
                __m512i low = _mm512_set1_epi32(token.start_halves[0]), high = _mm512_set1_epi32(token.start_halves[1]);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    low = add_products<P::NIBBLES>(low, weights[i], token, i);
                    high = add_products<P::NIBBLES>(high, weights[i + 4], token, i + 4);
                }
                total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_mul_ps(scale, factor), total[m]);
                total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_mul_ps(second, factor), total[m]);
            } else {
                // With few tokens two chains: one alone would wait for itself.
                __m512i low = P::MINIMUMS ? _mm512_setzero_si512()
                                          : _mm512_set1_epi32(P::NIBBLES ? token.start_nibbles : token.start_bytes);
                __m512i high = _mm512_setzero_si512();
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++) {
                    __m512i& sum = M <= 2 && i % 2 ? high : low;
                    sum = add_products<P::NIBBLES>(sum, weights[i], token, i);
                }
                if (M <= 2) low = _mm512_add_epi32(low, high);
                total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_mul_ps(scale, factor), total[m]);
            }
            if (P::MINIMUMS) total[m] = _mm512_fmadd_ps(_mm512_set1_ps(token.scaled_sum), minimum, total[m]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) _mm512_storeu_ps(sums + m * PANEL_ROWS, total[m]);
}

constexpr int64_t TOKENS_A_TILE = 16;

#elif defined(TGI_AVX2)

template <bool WIDE>
TGI_INLINE __m256 eight(const uint8_t* source, int half) {
    if (WIDE) return _mm256_loadu_ps(reinterpret_cast<const float*>(source) + 8 * half);
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source) + half));
}

TGI_INLINE __m256i four_times_eight(const TokenGroup& x, int step) {
    int32_t value;
    std::memcpy(&value, x.integers + 4 * step, sizeof value);
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
// 2 * 127 times the largest weight to a lane, which is 15 (nibbles) or 31 (bytes with minimums).
template <int FIRST, int STEPS>
TGI_INLINE __m256i small_products(const __m256i* weights, const TokenGroup& token) {
    __m256i total = _mm256_maddubs_epi16(weights[FIRST], four_times_eight(token, FIRST));
#pragma GCC unroll 8
    for (int i = FIRST + 1; i < FIRST + STEPS; i++)
        total = _mm256_add_epi16(total, _mm256_maddubs_epi16(weights[i], four_times_eight(token, i)));
    return _mm256_madd_epi16(total, _mm256_set1_epi16(1));
}

// The same of signed weights: 2 * 127 * 128 fits, one step at a time.
template <int FIRST, int STEPS>
TGI_INLINE __m256i signed_products(const __m256i* magnitudes, const __m256i* weights, const TokenGroup& token) {
    __m256i total = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = FIRST; i < FIRST + STEPS; i++) {
        __m256i x = _mm256_sign_epi8(four_times_eight(token, i), weights[i]);
        __m256i pairs = _mm256_maddubs_epi16(magnitudes[i], x);
        total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return total;
}

template <class P>
TGI_INLINE __m256 group_integers(const __m256i* magnitudes, const __m256i* weights, const TokenGroup& token) {
    __m256i total;
    if (P::NIBBLES) {
        total = small_products<0, 8>(weights, token);
        if (!P::MINIMUMS) total = _mm256_add_epi32(total, _mm256_set1_epi32(token.start_nibbles));
    } else if (P::MINIMUMS) {
        total = _mm256_add_epi32(small_products<0, 4>(weights, token), small_products<4, 4>(weights, token));
    } else {
        total = signed_products<0, 8>(magnitudes, weights, token);
    }
    return _mm256_cvtepi32_ps(total);
}

// One panel against M tokens; sums [M][PANEL_ROWS].
template <class P, int M>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const TokenGroup* x, float* sums) {
    __m256 total[2 * M];
    for (int m = 0; m < 2 * M; m++) total[m] = _mm256_setzero_ps();
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
                    __m256 low = _mm256_cvtepi32_ps(signed_products<0, 4>(magnitudes, weights, token));
                    __m256 high = _mm256_cvtepi32_ps(signed_products<4, 4>(magnitudes, weights, token));
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

constexpr int64_t TOKENS_A_TILE = 8;

#else

template <bool WIDE>
TGI_INLINE float scale_of(const uint8_t* source, int row) {
    if (WIDE) {
        float value;
        std::memcpy(&value, source + 4 * row, sizeof value);
        return value;
    }
    uint16_t half;
    std::memcpy(&half, source + 2 * row, sizeof half);
    return half_to_float(half);
}

// Columns [FIRST, FIRST + COUNT) of a group: exact sums of every row.
template <class P, int FIRST, int COUNT>
TGI_INLINE void row_integers(const uint8_t* group, const TokenGroup& token, int32_t start, int32_t* out) {
    const uint8_t* quants = group + P::QUANTS;
    for (int row = 0; row < PANEL_ROWS; row++) out[row] = start;
    for (int k = FIRST; k < FIRST + COUNT; k++) {
        int step = k / 4, shift = P::NIBBLES && step >= 4 ? 4 : 0, mask = P::NIBBLES ? 15 : 255;
        const uint8_t* bytes = quants + (P::NIBBLES ? step % 4 : step) * 64 + k % 4;
        for (int row = 0; row < PANEL_ROWS; row++) out[row] += (bytes[4 * row] >> shift & mask) * token.integers[k];
    }
}

// One panel against M tokens; sums [M][PANEL_ROWS].
template <class P, int M>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const TokenGroup* x, float* sums) {
    std::memset(sums, 0, sizeof(float) * M * PANEL_ROWS);
    for (int64_t g = 0; g < groups; g++, panel += P::BYTES) {
        for (int m = 0; m < M; m++) {
            const TokenGroup& token = x[m * groups + g];
            int32_t low[PANEL_ROWS], high[PANEL_ROWS];
            if (P::HALVES) {
                row_integers<P, 0, GROUP / 2>(panel, token, token.start_halves[0], low);
                row_integers<P, GROUP / 2, GROUP / 2>(panel, token, token.start_halves[1], high);
            } else {
                int32_t start = P::MINIMUMS ? 0 : P::NIBBLES ? token.start_nibbles : token.start_bytes;
                row_integers<P, 0, GROUP>(panel, token, start, low);
            }
            for (int row = 0; row < PANEL_ROWS; row++) {
                float sum = sums[m * PANEL_ROWS + row];
                sum = fmaf(static_cast<float>(low[row]), scale_of<P::WIDE>(panel, row) * token.scale, sum);
                if (P::HALVES) {
                    float scale = scale_of<P::WIDE>(panel + P::SCALE_BYTES, row);
                    sum = fmaf(static_cast<float>(high[row]), scale * token.scale, sum);
                }
                if (P::MINIMUMS) sum = fmaf(token.scaled_sum, scale_of<P::WIDE>(panel + P::MINIMUM, row), sum);
                sums[m * PANEL_ROWS + row] = sum;
            }
        }
    }
}

constexpr int64_t TOKENS_A_TILE = 4;

#endif

// --- A matmul unit -------------------------------------------------------------------------------------------------

template <class P, int M>
static void multiply_panel(
    const MatmulTask& task, const uint8_t* panel, int64_t token, int64_t rows, int64_t output) {
    alignas(64) float sums[M * PANEL_ROWS];
    int64_t groups = (task.columns + GROUP - 1) / GROUP;
    for (int m = 0; m < M; m++) ask_for_result(task, token + m, output);
    panel_tokens<P, M>(panel, groups, task.tokens_8bit + token * groups, sums);
    for (int m = 0; m < M; m++) finish(task, token + m, sums + m * PANEL_ROWS, rows, output);
}

template <class P>
static void compute_panel(const MatmulTask& task, const uint8_t* panel, int64_t rows, int64_t output) {
    int64_t token = 0;
    constexpr int MOST = static_cast<int>(TOKENS_A_TILE);
    for (; token + MOST <= task.tokens; token += MOST) multiply_panel<P, MOST>(task, panel, token, rows, output);
    if constexpr (MOST > 8)
        for (; token + 8 <= task.tokens; token += 8) multiply_panel<P, 8>(task, panel, token, rows, output);
    for (; token + 4 <= task.tokens; token += 4) multiply_panel<P, 4>(task, panel, token, rows, output);
    for (; token + 2 <= task.tokens; token += 2) multiply_panel<P, 2>(task, panel, token, rows, output);
    if (token < task.tokens) multiply_panel<P, 1>(task, panel, token, rows, output);
}

template <class P>
static void compute_panels(const MatmulTask& task, const Matrix& part, int64_t first, int64_t last, int64_t output) {
    int64_t groups = (task.columns + GROUP - 1) / GROUP;
    for (int64_t panel = first; panel < last; panel++) {
        int64_t row = panel * PANEL_ROWS, rows = part.rows - row < PANEL_ROWS ? part.rows - row : PANEL_ROWS;
        compute_panel<P>(task, part.data + panel * groups * P::BYTES, rows, output + row);
    }
}

// Panels [first, last) of a packed part, whose outputs begin at column `output` of the result.
static void compute_packed(const MatmulTask& task, const Matrix& part, int64_t first, int64_t last, int64_t output) {
    switch (part.layout) {
        case PANEL_Q4_0: compute_panels<Panel<true, false, false, false>>(task, part, first, last, output); break;
        case PANEL_Q4_1: compute_panels<Panel<true, false, true, false>>(task, part, first, last, output); break;
        case PANEL_Q4_K: compute_panels<Panel<true, true, true, false>>(task, part, first, last, output); break;
        case PANEL_Q8_0: compute_panels<Panel<false, false, false, false>>(task, part, first, last, output); break;
        case PANEL_Q5_1: compute_panels<Panel<false, false, true, false>>(task, part, first, last, output); break;
        case PANEL_Q5_K: compute_panels<Panel<false, true, true, false>>(task, part, first, last, output); break;
        default: compute_panels<Panel<false, true, false, true>>(task, part, first, last, output); break;  // PANEL_Q6_K
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
