// Activations in 8 or 23 bits times weights in panels of small integers; `tgi.kernels.matmul` defines the result.
//
// Element (token, row) is a sum over groups of 32 columns, in order. Within a group the integers are multiplied and
// added exactly, so how that is done is each path's own affair; 23 bits are multiplied 8 at a time, and nibbles times
// 23 bits still fit into 32. Then, every step rounded once and each `fma` fused:
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
TGI_INLINE __m512i add_products(__m512i sum, __m512i weights, const int8_t* integers, int step) {
    const auto* four = reinterpret_cast<const int8_t(*)[4]>(integers + 4 * step);
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

// A group's integers, but for Q6_K.
template <class P, int M>
TGI_INLINE __m512 group_integers(const __m512i* weights, const TokenGroup& token) {
    __m512i sum = P::MINIMUMS ? _mm512_setzero_si512()
                              : _mm512_set1_epi32(P::NIBBLES ? token.start_nibbles : token.start_bytes);
    // With few tokens two chains: one alone would wait for itself.
    __m512i other = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512i& chain = M <= 2 && i % 2 ? other : sum;
        chain = add_products<P::NIBBLES>(chain, weights[i], token.integers, i);
    }
    if (M <= 2) sum = _mm512_add_epi32(sum, other);
    return _mm512_cvtepi32_ps(sum);
}

template <class P, int M>
TGI_INLINE __m512 group_integers(const __m512i* weights, const FineTokenGroup& token) {
    __m512i sums[3];
#pragma GCC unroll 3
    for (int part = 0; part < 3; part++)
        sums[part] = P::MINIMUMS ? _mm512_setzero_si512() : _mm512_set1_epi32(token.start_nibbles[part]);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
#pragma GCC unroll 3
        for (int part = 0; part < 3; part++)
            sums[part] = add_products<true>(sums[part], weights[i], token.integers[part], i);
    }
    __m512i upper = _mm512_add_epi32(_mm512_slli_epi32(sums[0], 8), sums[1]);
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(upper, 8), sums[2]));
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
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const Token* x, float* sums) {
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
            const Token& token = x[m * groups + g];
            __m512 factor = _mm512_set1_ps(token.scale);
            if constexpr (P::HALVES) {
                total[m] = add_halves<P>(weights, token, scale, second, factor, total[m]);
            } else {
                __m512 integers = group_integers<P, M>(weights, token);
                total[m] = _mm512_fmadd_ps(integers, _mm512_mul_ps(scale, factor), total[m]);
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

template <class P>
TGI_INLINE __m256 group_integers(const __m256i*, const __m256i* weights, const FineTokenGroup& token) {
    __m256i sums[3];
#pragma GCC unroll 3
    for (int part = 0; part < 3; part++) {
        sums[part] = small_products<0, 8>(weights, token.integers[part]);
        if (!P::MINIMUMS) sums[part] = _mm256_add_epi32(sums[part], _mm256_set1_epi32(token.start_nibbles[part]));
    }
    __m256i upper = _mm256_add_epi32(_mm256_slli_epi32(sums[0], 8), sums[1]);
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(upper, 8), sums[2]));
}

// One panel against M tokens; sums [M][PANEL_ROWS].
template <class P, int M, class Token>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const Token* x, float* sums) {
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
                const Token& token = x[m * groups + g];
                __m256 factor = _mm256_set1_ps(token.scale), sum = total[2 * m + half];
                if constexpr (P::HALVES) {
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
TGI_INLINE void row_integers(const uint8_t* group, const int8_t* integers, int32_t start, int32_t* out) {
    const uint8_t* quants = group + P::QUANTS;
    for (int row = 0; row < PANEL_ROWS; row++) out[row] = start;
    for (int k = FIRST; k < FIRST + COUNT; k++) {
        int step = k / 4, shift = P::NIBBLES && step >= 4 ? 4 : 0, mask = P::NIBBLES ? 15 : 255;
        const uint8_t* bytes = quants + (P::NIBBLES ? step % 4 : step) * 64 + k % 4;
        for (int row = 0; row < PANEL_ROWS; row++) out[row] += (bytes[4 * row] >> shift & mask) * integers[k];
    }
}

template <class P>
TGI_INLINE void group_integers(const uint8_t* group, const TokenGroup& token, int32_t* out) {
    int32_t start = P::MINIMUMS ? 0 : P::NIBBLES ? token.start_nibbles : token.start_bytes;
    row_integers<P, 0, GROUP>(group, token.integers, start, out);
}

template <class P>
TGI_INLINE void group_integers(const uint8_t* group, const FineTokenGroup& token, int32_t* out) {
    std::memset(out, 0, sizeof(int32_t) * PANEL_ROWS);
    for (int part = 0; part < 3; part++) {
        int32_t sums[PANEL_ROWS];
        row_integers<P, 0, GROUP>(group, token.integers[part], P::MINIMUMS ? 0 : token.start_nibbles[part], sums);
        for (int row = 0; row < PANEL_ROWS; row++) out[row] = out[row] * 256 + sums[row];
    }
}

// One panel against M tokens; sums [M][PANEL_ROWS].
template <class P, int M, class Token>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const Token* x, float* sums) {
    std::memset(sums, 0, sizeof(float) * M * PANEL_ROWS);
    for (int64_t g = 0; g < groups; g++, panel += P::BYTES) {
        for (int m = 0; m < M; m++) {
            const Token& token = x[m * groups + g];
            int32_t low[PANEL_ROWS], high[PANEL_ROWS];
            if constexpr (P::HALVES) {
                row_integers<P, 0, GROUP / 2>(panel, token.integers, token.start_halves[0], low);
                row_integers<P, GROUP / 2, GROUP / 2>(panel, token.integers, token.start_halves[1], high);
            } else {
                group_integers<P>(panel, token, low);
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

template <class P, int M, class Token>
static void multiply_panel(
    const MatmulTask& task, const Token* x, const uint8_t* panel, int64_t token, int64_t rows, int64_t output) {
    alignas(64) float sums[M * PANEL_ROWS];
    int64_t groups = (task.columns + GROUP - 1) / GROUP;
    for (int m = 0; m < M; m++) ask_for_result(task, token + m, output);
    panel_tokens<P, M>(panel, groups, x + token * groups, sums);
    for (int m = 0; m < M; m++) finish(task, token + m, sums + m * PANEL_ROWS, rows, output);
}

template <class P, class Token>
static void compute_panel(
    const MatmulTask& task, const Token* x, const uint8_t* panel, int64_t rows, int64_t output) {
    int64_t token = 0;
    constexpr int MOST = static_cast<int>(TOKENS_A_TILE);
    for (; token + MOST <= task.tokens; token += MOST) multiply_panel<P, MOST>(task, x, panel, token, rows, output);
    if constexpr (MOST > 8)
        for (; token + 8 <= task.tokens; token += 8) multiply_panel<P, 8>(task, x, panel, token, rows, output);
    for (; token + 4 <= task.tokens; token += 4) multiply_panel<P, 4>(task, x, panel, token, rows, output);
    for (; token + 2 <= task.tokens; token += 2) multiply_panel<P, 2>(task, x, panel, token, rows, output);
    if (token < task.tokens) multiply_panel<P, 1>(task, x, panel, token, rows, output);
}

template <class P, class Token>
static void compute_panels(const PanelRun& run, const Token* x) {
    const Matrix& part = *run.part;
    for (int64_t panel = run.panel; panel < run.panel + run.count; panel++) {
        int64_t row = panel * PANEL_ROWS, rows = part.rows - row < PANEL_ROWS ? part.rows - row : PANEL_ROWS;
        compute_panel<P>(*run.task, x, part.data + panel * run.bytes, rows, run.output + row);
    }
}

static void compute_coarse(const PanelRun& run) {
    const TokenGroup* x = run.task->coarse;
    switch (run.part->layout) {
        case PANEL_Q4_0: return compute_panels<Panel<true, false, false, false>>(run, x);
        case PANEL_Q4_1: return compute_panels<Panel<true, false, true, false>>(run, x);
        case PANEL_Q4_K: return compute_panels<Panel<true, true, true, false>>(run, x);
        case PANEL_Q8_0: return compute_panels<Panel<false, false, false, false>>(run, x);
        case PANEL_Q5_1: return compute_panels<Panel<false, false, true, false>>(run, x);
        case PANEL_Q5_K: return compute_panels<Panel<false, true, true, false>>(run, x);
        default: return compute_panels<Panel<false, true, false, true>>(run, x);  // PANEL_Q6_K
    }
}

static void compute_fine(const PanelRun& run) {
    const FineTokenGroup* x = run.task->fine;
    switch (run.part->layout - EXACT) {
        case PANEL_Q4_0: return compute_panels<Panel<true, false, false, false>>(run, x);
        case PANEL_Q4_1: return compute_panels<Panel<true, false, true, false>>(run, x);
        default: return compute_panels<Panel<true, true, true, false>>(run, x);  // PANEL_Q4_K
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
