// x times a transposed stored matrix.
//
// Element (token, row) is the sum over the columns, cut in chunks of CHUNK: within a chunk, lane l adds up the products
// of columns l, l + 8, l + 16, ... in that order, the eight lanes are added as `sum` does, and the chunks' sums are
// added in order; then bias, then what `out` held. Tiles, tails and thread counts change which elements are computed
// together, never this order.
//
// A tile of weight rows is dequantised into the first-level cache once, and all tokens run over it; for very few tokens
// the values are multiplied as they are unpacked, without the way through the cache.
#pragma once

#include "dequantize.h"
#include "integer.h"
#include "panel_blocks.h"

namespace tgi {
namespace TGI_PATH {

constexpr int64_t CHUNK = 768;          // columns; a multiple of every block length
constexpr int64_t TOKENS_AT_ONCE = 256;  // sums of this many tokens wait for their next chunk

// Sums of M vectors against N vectors, N a multiple of 4. What follows `count` in `w` is zeros up to a multiple of 8.
template <int M, int N>
TGI_INLINE void dot_tile(
    const float* x, int64_t x_stride, const float* w, int64_t w_stride, int64_t count, float* out, bool first) {
    Float8 sums[M * N] = {};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8) {
        Float8 rows[M];
#pragma GCC unroll 4
        for (int m = 0; m < M; m++) rows[m] = load(x + m * x_stride + k);
#pragma GCC unroll 12
        for (int n = 0; n < N; n++) {
            Float8 column = load(w + n * w_stride + k);
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) sums[m * N + n] = fused(rows[m], column, sums[m * N + n]);
        }
    }
    if (k < count) {
        for (int m = 0; m < M; m++) {
            Float8 row = load_part(x + m * x_stride + k, count - k);
            for (int n = 0; n < N; n++) sums[m * N + n] = fused(row, load(w + n * w_stride + k), sums[m * N + n]);
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) {
#pragma GCC unroll 3
        for (int n = 0; n < N; n += 4) sum_four(sums + m * N + n, out + m * TILE_ROWS + n, first);
    }
}

// The same for any number of vectors against TILE_ROWS; out [vectors, TILE_ROWS] is set when `first`, else added to.
static void dot_rows(
    const float* x, int64_t x_stride, int64_t vectors, const float* w, int64_t w_stride, int64_t count, float* out,
    bool first) {
    int64_t m = 0;
    for (; m + 3 <= vectors; m += 3) {
        for (int64_t n = 0; n < TILE_ROWS; n += 4)
            dot_tile<3, 4>(x + m * x_stride, x_stride, w + n * w_stride, w_stride, count, out + m * TILE_ROWS + n, first);
    }
    if (vectors - m == 2) {
        for (int64_t n = 0; n < TILE_ROWS; n += 4)
            dot_tile<2, 4>(x + m * x_stride, x_stride, w + n * w_stride, w_stride, count, out + m * TILE_ROWS + n, first);
    } else if (vectors - m == 1) {
        dot_tile<1, 12>(x + m * x_stride, x_stride, w, w_stride, count, out + m * TILE_ROWS, first);
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
        for (int64_t m = 0; m < tokens; m++) finish(task, token + m, sums + m * TILE_ROWS, rows, output);
    }
}

// R rows of a part against M tokens, values multiplied as they are unpacked.
template <class Block, int M, int R>
TGI_INLINE void multiply_rows(const MatmulTask& task, const Matrix& part, int64_t row, int64_t output) {
    int64_t row_bytes = task.columns / 32 * Block::BYTES + task.columns % 32 * Block::BYTES / 32;
    const uint8_t* source = part.data + row * row_bytes;
    float results[M * R] = {};
    for (int64_t k = 0; k < task.columns; k += CHUNK) {
        int64_t count = task.columns - k < CHUNK ? task.columns - k : CHUNK, whole = count / 32 * 32;
        const float* x = task.x + k;
        Float8 sums[M * R] = {};
        for (int64_t i = 0; i < whole; i += 32) {
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                Float8 values[4];
                const uint8_t* block = source + r * row_bytes + (k + i) / 32 * Block::BYTES;
                __builtin_prefetch(block + R * row_bytes);  // the rows after these: the weights come from memory
                Block::unpack(block, values);
#pragma GCC unroll 4
                for (int v = 0; v < 4; v++) {
#pragma GCC unroll 8
                    for (int m = 0; m < M; m++) {
                        Float8 tokens = load(x + m * task.x_stride + i + 8 * v);
                        sums[m * R + r] = fused(tokens, values[v], sums[m * R + r]);
                    }
                }
            }
        }
        for (int64_t i = whole; i < count; i += 8) {
            int64_t rest = count - i < 8 ? count - i : 8;
            for (int r = 0; r < R; r++) {
                float values[8] = {};
                dequantize(part, row + r, k + i, rest, values);
                for (int m = 0; m < M; m++) {
                    Float8 tokens = load_part(x + m * task.x_stride + i, rest);
                    sums[m * R + r] = fused(tokens, load(values), sums[m * R + r]);
                }
            }
        }
        for (int i = 0; i < M * R; i++) results[i] = k == 0 ? sum(sums[i]) : results[i] + sum(sums[i]);
    }
    for (int m = 0; m < M; m++) finish(task, m, results + m * R, R, output);
}

template <class Block, int M, int R>
static void multiply_tile(const MatmulTask& task, const Matrix& part, int64_t row, int64_t rows, int64_t output) {
    int64_t n = 0;
    for (; n + R <= rows; n += R) multiply_rows<Block, M, R>(task, part, row + n, output + n);
    for (; n < rows; n++) multiply_rows<Block, M, 1>(task, part, row + n, output + n);
}

template <class Block>
TGI_INLINE bool multiply_few(const MatmulTask& task, const Matrix& part, int64_t row, int64_t rows, int64_t output) {
    switch (task.tokens) {
        case 1: multiply_tile<Block, 1, 4>(task, part, row, rows, output); return true;
        case 2: multiply_tile<Block, 2, 4>(task, part, row, rows, output); return true;
        case 3: multiply_tile<Block, 3, 2>(task, part, row, rows, output); return true;
        case 4: multiply_tile<Block, 4, 2>(task, part, row, rows, output); return true;
        default: return false;
    }
}

static void compute_tile(const MatmulTask& task, const Matrix& part, int64_t row, int64_t rows, int64_t output) {
    bool done = false;
    switch (part.layout) {
        case F32: done = multiply_few<BlockF32>(task, part, row, rows, output); break;
        case F16: done = multiply_few<BlockF16>(task, part, row, rows, output); break;
        case BF16: done = multiply_few<BlockBF16>(task, part, row, rows, output); break;
        case Q4_0: done = multiply_few<BlockQ4_0>(task, part, row, rows, output); break;
        case Q4_1: done = multiply_few<BlockQ4_1>(task, part, row, rows, output); break;
        case Q8_0: done = multiply_few<BlockQ8_0>(task, part, row, rows, output); break;
        default: break;
    }
    if (!done) matmul_tile(task, part, row, rows, output);
}

// Panels [first, last) of a part, as far as there are any; its outputs begin at column `output` of the result.
static void compute_units(const MatmulTask& task, const Matrix& part, int64_t first, int64_t last, int64_t output) {
    int64_t panels = (part.rows + PANEL_ROWS - 1) / PANEL_ROWS, kind = part.layout % EXACT;
    int64_t groups = kind >= PANEL_F32 ? task.columns : (task.columns + GROUP - 1) / GROUP;
    if (last > panels) last = panels;
    PanelRun run{&task, &part, first, last - first, output, groups * PANEL_SIZES[kind - FIRST_PANEL].bytes};
    switch (arithmetic_of(part.layout)) {
        case COARSE: return compute_coarse(run);
        case FINE: return compute_fine(run);
        default: return compute_in_floats(run);
    }
}

// Unit: one tile of rows, or some panels, counted through the parts.
static void matmul_units(const void* argument, int64_t begin, int64_t end) {
    const MatmulTask& task = *static_cast<const MatmulTask*>(argument);
    int64_t first_unit = 0, output = 0;
    for (int64_t p = 0; p < task.part_count; p++) {
        const Matrix& part = task.parts[p];
        int64_t each = unit_rows(part), units = (part.rows + each - 1) / each;
        int64_t from = begin > first_unit ? begin - first_unit : 0, to = end - first_unit < units ? end - first_unit : units;
        if (part.layout >= FIRST_PANEL && from < to) {
            compute_units(task, part, from * each / PANEL_ROWS, to * each / PANEL_ROWS, output);
            from = to;
        }
        for (int64_t unit = from; unit < to; unit++) {
            int64_t row = unit * each, rows = part.rows - row < each ? part.rows - row : each;
            compute_tile(task, part, row, rows, output + row);
        }
        first_unit += units;
        output += part.rows;
    }
}

// Unit: one token.
static void embedding_units(const void* argument, int64_t begin, int64_t end) {
    const EmbeddingTask& task = *static_cast<const EmbeddingTask*>(argument);
    int64_t columns = task.table.columns;
    for (int64_t token = begin; token < end; token++) {
        float* out = task.out + token * columns;
        if (task.table.layout >= FIRST_PANEL)
            panel_row(task.table, task.ids[token], out);
        else
            dequantize(task.table, task.ids[token], 0, columns, out);
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
