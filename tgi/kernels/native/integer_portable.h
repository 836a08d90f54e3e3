// integer.h's products one by one.
#pragma once

#include <cmath>

#include "integer_panels.h"

namespace tgi {
namespace TGI_PATH {

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
    int32_t digits[3][PANEL_ROWS];
    for (int i = 0; i < 3; i++) row_integers<P, 0, GROUP>(group, token.integers[i], 0, digits[i]);
    int32_t start = P::MINIMUMS ? 0 : token.start_nibbles;
    for (int row = 0; row < PANEL_ROWS; row++) {
        int32_t upper = digits[0][row] * (1 << DIGIT_BITS) + digits[1][row];
        out[row] = upper * (1 << DIGIT_BITS) + digits[2][row] + start;
    }
}

// One panel against M tokens; sums [M][PANEL_ROWS].
template <class P, int M, class Token>
TGI_INLINE void panel_tokens(const uint8_t* panel, int64_t groups, const Token* x, const Apart& apart, float* sums) {
    std::memset(sums, 0, sizeof(float) * M * PANEL_ROWS);
    for (int64_t k = 0; k < apart.count; k++)
        for (int i = 0; i < M * PANEL_ROWS; i++)
            sums[i] = fmaf(apart.x[i / PANEL_ROWS * apart.count + k], apart.weights[k * PANEL_ROWS + i % PANEL_ROWS], sums[i]);
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

template <class Token>
constexpr int TOKENS_A_TILE = 4;

}  // namespace TGI_PATH
}  // namespace tgi
