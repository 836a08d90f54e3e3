// x times a transposed stored matrix.
//
// Element (token, row) is the sum over the columns, cut in chunks of CHUNK: within a chunk, lane l adds up the products
// of columns l, l + 8, l + 16, ... in that order, the eight lanes are added as `sum` does, and the chunks' sums are
// added in order; then bias, then what `out` held. Tiles, tails and thread counts change which elements are computed
// together, never this order.
//
// A tile of weight rows is dequantised into the first-level cache once, and all tokens run over it.
#pragma once

#include "dequantize.h"

namespace tgi {
namespace TGI_PATH {

constexpr int64_t CHUNK = 768;          // columns; a multiple of every block length
constexpr int64_t TOKENS_AT_ONCE = 256;  // sums of this many tokens wait for their next chunk

// Sums of M vectors against N vectors, M * N = 12. The rest of `w` after `count` is zeros up to a multiple of 8.
template <int M>
TGI_INLINE void dot_tile(
    const float* x, int64_t x_stride, const float* w, int64_t w_stride, int64_t count, float* out, int64_t out_stride,
    bool first) {
    constexpr int N = 12 / M;
    Float8 sums[12] = {};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8) {
        Float8 columns[N];
#pragma GCC unroll 12
        for (int n = 0; n < N; n++) columns[n] = load(w + n * w_stride + k);
#pragma GCC unroll 4
        for (int m = 0; m < M; m++) {
            Float8 row = load(x + m * x_stride + k);
#pragma GCC unroll 12
            for (int n = 0; n < N; n++) sums[m * N + n] = fused(row, columns[n], sums[m * N + n]);
        }
    }
    if (k < count) {
        for (int m = 0; m < M; m++) {
            Float8 row = load_part(x + m * x_stride + k, count - k);
            for (int n = 0; n < N; n++) sums[m * N + n] = fused(row, load(w + n * w_stride + k), sums[m * N + n]);
        }
    }
    float totals[12];
    for (int i = 0; i < 12; i += 4) sum_four(sums + i, totals + i);
    for (int m = 0; m < M; m++) {
        for (int n = 0; n < N; n++) {
            float* target = out + m * out_stride + n;
            *target = first ? totals[m * N + n] : *target + totals[m * N + n];
        }
    }
}

// The same for any number of vectors against TILE_ROWS; out [vectors, TILE_ROWS].
static void dot_rows(
    const float* x, int64_t x_stride, int64_t vectors, const float* w, int64_t w_stride, int64_t count, float* out,
    bool first) {
    int64_t m = 0;
    for (; m + 4 <= vectors; m += 4) {
        for (int64_t n = 0; n < TILE_ROWS; n += 3)
            dot_tile<4>(x + m * x_stride, x_stride, w + n * w_stride, w_stride, count, out + m * TILE_ROWS + n, TILE_ROWS, first);
    }
    const float* rest = x + m * x_stride;
    float* rest_out = out + m * TILE_ROWS;
    if (vectors - m == 3) {
        for (int64_t n = 0; n < TILE_ROWS; n += 4)
            dot_tile<3>(rest, x_stride, w + n * w_stride, w_stride, count, rest_out + n, TILE_ROWS, first);
    } else if (vectors - m == 2) {
        for (int64_t n = 0; n < TILE_ROWS; n += 6)
            dot_tile<2>(rest, x_stride, w + n * w_stride, w_stride, count, rest_out + n, TILE_ROWS, first);
    } else if (vectors - m == 1) {
        dot_tile<1>(rest, x_stride, w, w_stride, count, rest_out, TILE_ROWS, first);
    }
}

// Rows [row, row + rows) of a part, whose outputs begin at column `output` of the result.
static void matmul_tile(const MatmulTask& task, const Matrix& part, int64_t row, int64_t rows, int64_t output) {
    alignas(64) float tile[TILE_ROWS * CHUNK];
    alignas(64) float sums[TOKENS_AT_ONCE * TILE_ROWS];
    if (rows < TILE_ROWS) std::memset(tile, 0, sizeof tile);
    for (int64_t token = 0; token < task.tokens; token += TOKENS_AT_ONCE) {
        int64_t tokens = task.tokens - token < TOKENS_AT_ONCE ? task.tokens - token : TOKENS_AT_ONCE;
        std::memset(sums, 0, static_cast<size_t>(tokens * TILE_ROWS) * sizeof(float));
        for (int64_t k = 0; k < task.columns; k += CHUNK) {
            int64_t count = task.columns - k < CHUNK ? task.columns - k : CHUNK;
            for (int64_t n = 0; n < rows; n++) {
                float* target = tile + n * CHUNK;
                dequantize(part, row + n, k, count, target);
                for (int64_t i = count; i % 8; i++) target[i] = 0.0f;
            }
            dot_rows(task.x + token * task.x_stride + k, task.x_stride, tokens, tile, CHUNK, count, sums, k == 0);
        }
        for (int64_t m = 0; m < tokens; m++) {
            float* out = task.out + (token + m) * task.out_stride + output;
            for (int64_t n = 0; n < rows; n++) {
                float value = sums[m * TILE_ROWS + n];
                if (task.bias) value += task.bias[output + n];
                out[n] = task.accumulate ? out[n] + value : value;
            }
        }
    }
}

// Unit: one tile of rows, counted through the parts.
static void matmul_units(const void* argument, int64_t begin, int64_t end) {
    const MatmulTask& task = *static_cast<const MatmulTask*>(argument);
    int64_t first_unit = 0, output = 0;
    for (int64_t p = 0; p < task.part_count; p++) {
        const Matrix& part = task.parts[p];
        int64_t units = (part.rows + TILE_ROWS - 1) / TILE_ROWS;
        int64_t from = begin > first_unit ? begin - first_unit : 0, to = end - first_unit < units ? end - first_unit : units;
        for (int64_t unit = from; unit < to; unit++) {
            int64_t row = unit * TILE_ROWS;
            int64_t rows = part.rows - row < TILE_ROWS ? part.rows - row : TILE_ROWS;
            matmul_tile(task, part, row, rows, output + row);
        }
        first_unit += units;
        output += part.rows;
    }
}

// Unit: one token.
static void embedding_units(const void* argument, int64_t begin, int64_t end) {
    const EmbeddingTask& task = *static_cast<const EmbeddingTask*>(argument);
    int64_t columns = task.table.columns;
    for (int64_t token = begin; token < end; token++)
        dequantize(task.table, task.ids[token], 0, columns, task.out + token * columns);
}

}  // namespace TGI_PATH
}  // namespace tgi
