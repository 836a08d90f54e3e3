// Activations in float32 times panels of bytes: exact arithmetic, on the panels that integer.h multiplies too.
//
// Element (token, row) is a sum over groups of 32 columns, in order. Every step is rounded once and each `fma` fused:
//
//   products = fma(integer, x, products)       over the columns of the group, from zero (Q6_K: of each half)
//   sum = fma(products, scale, sum)            (Q6_K: for each half)
//   sum = fma(sum of the group's x, minimum, sum)        (where there are minimums)
//
// Then bias, then what `out` held. The sum of a group's x is made of eight sums of every eighth. How many tokens, rows
// or columns are computed together never changes an order.
//
// Lanes are rows. `ScaleTask` has made the activations smaller by what integers are too large where they lie. Tokens
// multiply integers as these are unpacked, as many tokens at once as there are registers for their products. Where
// registers are too few, a stretch of columns is unpacked into a tile that stays in the caches.
#pragma once

#include "panel_floats.h"

namespace tgi {
namespace TGI_PATH {

// --- Activations ---------------------------------------------------------------------------------------------------

// Unit: one token.
static void scale_units(const void* argument, int64_t begin, int64_t end) {
    const ScaleTask& task = *static_cast<const ScaleTask*>(argument);
    const Float8 smaller_by = {1.0f, 0x1p-8f, 0x1p-16f, 0x1p-24f, 1.0f, 0x1p-8f, 0x1p-16f, 0x1p-24f};
    for (int64_t token = begin; token < end; token++) {
        const float* x = task.x + token * task.x_stride;
        float *out = task.out + token * task.out_stride, *sums = out + task.columns;
        for (int64_t k = 0; k < task.columns; k += GROUP) {
            Float8 total = load(x + k);
            for (int64_t i = 8; i < GROUP; i += 8) total += load(x + k + i);
            sums[k / GROUP] = sum(total);
            for (int64_t i = 0; i < GROUP; i += 8) store(out + k + i, load(x + k + i) * smaller_by);
        }
    }
}

// --- Register tiles ------------------------------------------------------------------------------------------------

// The end of a group, or of a half with a scale of its own: M tokens' products of N panels, and the sums of their x,
// are added to `total`, or to what lies in `sums` [M][N * PANEL_ROWS] where registers are too few.
template <class P, int M, int N, bool KEPT>
TGI_INLINE void add_group(
    const uint8_t* const* group, const float* const* x, int64_t sum_at, int which, const Lanes* products, Lanes* total,
    float* sums) {
    constexpr int WIDTH = N * PARTS;
TGI_UNROLL
    for (int i = 0; i < WIDTH; i++) {
        Lanes scale = P::scale(group[i / PARTS], which, i % PARTS);
        Lanes minimum = scale;
        if (P::MINIMUMS) minimum = P::minimum(group[i / PARTS], i % PARTS);
TGI_UNROLL
        for (int m = 0; m < M; m++) {
            int at = m * WIDTH + i;
            Lanes sum = fused_lanes(products[at], scale, KEPT ? total[at] : lanes_at(sums + at * LANES));
            if (P::MINIMUMS) sum = fused_lanes(every(x[m][sum_at]), minimum, sum);
            if (KEPT) total[at] = sum;
            else put_lanes(sums + at * LANES, sum);
        }
    }
}

// Half a group of N panels times M tokens, added to `products`.
template <class P, int M, int N>
TGI_INLINE void multiply_half(
    const uint8_t* const* group, const float* const* x, int64_t k, int half, Lanes* products) {
    constexpr int WIDTH = N * PARTS;
    for (int run = 0; run < P::RUNS; run++) {
        Fours four[WIDTH];
        int64_t column = k + (half * P::RUNS + run) * 4;
TGI_UNROLL
        for (int i = 0; i < WIDTH; i++) four[i] = P::read(group[i / PARTS], half, run, i % PARTS);
TGI_UNROLL
        for (int c = 0; c < 4; c++) {
TGI_UNROLL
            for (int i = 0; i < WIDTH; i++) {
                Lanes integers = P::integers(four[i], c);
TGI_UNROLL
                for (int m = 0; m < M; m++)
                    products[m * WIDTH + i] = fused_lanes(every(x[m][column + c]), integers, products[m * WIDTH + i]);
            }
        }
    }
}

// N panels against M tokens; sums [M][N * PANEL_ROWS]. What lies `ahead` of each is asked for: the panels after these.
template <class P, int M, int N>
TGI_INLINE void multiply_groups(
    const uint8_t* const* panels, const float* const* x, int64_t columns, int64_t ahead, float* sums) {
    constexpr int COUNT = M * N * PARTS;
    constexpr bool KEPT = sizeof(Lanes) == 64 ? COUNT <= 8 : COUNT <= 4;  // sums stay in registers
    Lanes total[COUNT];
TGI_UNROLL
    for (int i = 0; i < COUNT; i++) total[i] = every(0.0f);
    if (!KEPT)
        for (int i = 0; i < COUNT; i++) put_lanes(sums + i * LANES, every(0.0f));
    for (int64_t k = 0; k < columns; k += GROUP) {
        const uint8_t* group[N];
        Lanes products[COUNT];
TGI_UNROLL
        for (int n = 0; n < N; n++) {
            group[n] = panels[n] + k / GROUP * P::BYTES;
            if (ahead)
                for (int64_t i = 0; i < P::BYTES; i += 64) __builtin_prefetch(group[n] + ahead + i, 0, 2);
        }
TGI_UNROLL
        for (int half = 0; half < 2; half++) {
            if (half == 0 || P::SCALES == 2)
TGI_UNROLL
                for (int i = 0; i < COUNT; i++) products[i] = every(0.0f);
            multiply_half<P, M, N>(group, x, k, half, products);
            if (half == 0 && P::SCALES == 1) continue;
            add_group<P, M, N, KEPT>(group, x, columns + k / GROUP, P::SCALES == 2 ? half : 0, products, total, sums);
        }
    }
    if (KEPT)
TGI_UNROLL
        for (int i = 0; i < COUNT; i++) put_lanes(sums + i * LANES, total[i]);
}

// M tokens from `token` on, N panels at a time.
template <class P, int M, int N>
static void multiply_blocks(PanelRun run, int64_t token) {
    const MatmulTask& task = *run.task;
    const float* x[M];
    find_tokens<M>(task, task.scaled, task.scaled_stride, token, x);
    for (; run.count > 0; run.panel += N, run.count -= N) {
        alignas(64) float sums[M * N * PANEL_ROWS];
        const uint8_t* panels[N];
        find_panels<N>(run, run.panel, panels);
        multiply_groups<P, M, N>(panels, x, task.columns, token ? 0 : N * run.bytes, sums);
        for (int m = 0; m < M && token + m < task.tokens; m++)
            finish_panels<N>(run, run.panel, token + m, sums + m * N * PANEL_ROWS);
    }
}

#if !defined(TGI_VNNI)

// --- Tiles in the caches -------------------------------------------------------------------------------------------

constexpr int TILE_TOKENS = 6;
constexpr int64_t TILE_COLUMNS = 256;
constexpr int64_t TILE_MOST_TOKENS = 252;  // sums of this many wait for their next stretch of columns

template <class P>
static void unpack_tile(const uint8_t* panel, int64_t first, int64_t count, float* tile) {
    for (int64_t k = 0; k < count; k += GROUP) {
        const uint8_t* group = panel + (first + k) / GROUP * P::BYTES;
        float* to = tile + k * PANEL_ROWS;
TGI_UNROLL
        for (int half = 0; half < 2; half++) {
            for (int run = 0; run < P::RUNS; run++, to += 4 * PANEL_ROWS) {
TGI_UNROLL
                for (int p = 0; p < PARTS; p++) {
                    Fours four = P::read(group, half, run, p);
TGI_UNROLL
                    for (int c = 0; c < 4; c++) put_lanes(to + c * PANEL_ROWS + p * LANES, P::integers(four, c));
                }
            }
        }
    }
}

// `count` columns of a panel, unpacked, against M tokens; sums [M][PANEL_ROWS] go on.
template <class P, int M>
static void multiply_tile_of(
    const uint8_t* panel, const float* tile, const float* const* x, int64_t columns, int64_t first, int64_t count,
    float* sums) {
    constexpr int COUNT = M * PARTS;
    constexpr int64_t EACH = GROUP / P::SCALES;
    for (int64_t k = 0; k < count; k += EACH) {
        Lanes products[COUNT];
TGI_UNROLL
        for (int i = 0; i < COUNT; i++) products[i] = every(0.0f);
        for (int64_t c = k; c < k + EACH; c++) {
            Lanes w[PARTS];
TGI_UNROLL
            for (int p = 0; p < PARTS; p++) w[p] = lanes_at(tile + (c * PARTS + p) * LANES);
TGI_UNROLL
            for (int m = 0; m < M; m++) {
                Lanes value = every(x[m][first + c]);
TGI_UNROLL
                for (int p = 0; p < PARTS; p++)
                    products[m * PARTS + p] = fused_lanes(value, w[p], products[m * PARTS + p]);
            }
        }
        int64_t number = (first + k) / GROUP;
        const uint8_t* group = panel + number * P::BYTES;
        int which = static_cast<int>(k / EACH % P::SCALES);
        add_group<P, M, 1, false>(&group, x, columns + number, which, products, nullptr, sums);
    }
}

template <class P>
static void multiply_many(const PanelRun& run) {
    const MatmulTask& task = *run.task;
    alignas(64) float tile[TILE_COLUMNS * PANEL_ROWS];
    alignas(64) float sums[TILE_MOST_TOKENS * PANEL_ROWS];
    for (int64_t panel = run.panel; panel < run.panel + run.count; panel++) {
        const uint8_t* source = run.part->data + panel * run.bytes;
        for (int64_t start = 0; start < task.tokens; start += TILE_MOST_TOKENS) {
            int64_t tokens = task.tokens - start < TILE_MOST_TOKENS ? task.tokens - start : TILE_MOST_TOKENS;
            int64_t padded = (tokens + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
            std::memset(sums, 0, sizeof(float) * static_cast<size_t>(padded * PANEL_ROWS));
            for (int64_t k = 0; k < task.columns; k += TILE_COLUMNS) {
                int64_t count = task.columns - k < TILE_COLUMNS ? task.columns - k : TILE_COLUMNS;
                unpack_tile<P>(source, k, count, tile);
                for (int64_t token = 0; token < tokens; token += TILE_TOKENS) {
                    const float* x[TILE_TOKENS];
                    find_tokens<TILE_TOKENS>(task, task.scaled, task.scaled_stride, start + token, x);
                    float* into = sums + token * PANEL_ROWS;
                    if (tokens - token > TILE_TOKENS / 3 * 2)
                        multiply_tile_of<P, TILE_TOKENS>(source, tile, x, task.columns, k, count, into);
                    else if (tokens - token > TILE_TOKENS / 3)
                        multiply_tile_of<P, TILE_TOKENS / 3 * 2>(source, tile, x, task.columns, k, count, into);
                    else
                        multiply_tile_of<P, TILE_TOKENS / 3>(source, tile, x, task.columns, k, count, into);
                }
            }
            for (int64_t m = 0; m < tokens; m++) finish_panels<1>(run, panel, start + m, sums + m * PANEL_ROWS);
        }
    }
}

#endif

// --- A matmul unit -------------------------------------------------------------------------------------------------

// Tokens from `token` on against one panel, M at a time while more than FEWER are left.
template <class P, int M, int FEWER>
TGI_INLINE int64_t multiply_by(const PanelRun& panel, int64_t token) {
    for (; panel.task->tokens - token > FEWER; token += M) multiply_blocks<P, M, 1>(panel, token);
    return token;
}

// As compute_floats.
template <class P>
static void compute_blocks(const PanelRun& run) {
    int64_t tokens = run.task->tokens;
    constexpr int ALONE = sizeof(Lanes) == 64 ? 4 : 2;
    if (tokens == 1) return multiply_blocks<P, 1, ALONE>(run, 0);
    if (tokens == 2) return multiply_blocks<P, 2, ALONE>(run, 0);
#if defined(TGI_VNNI)
    if (tokens <= 4) return multiply_blocks<P, 4, 2>(run, 0);
#else
    if (tokens > 8) return multiply_many<P>(run);
#endif
    PanelRun one = run;
    one.count = 1;
    for (; one.panel < run.panel + run.count; one.panel++) {
        int64_t token = 0;
#if defined(TGI_VNNI)
        token = multiply_by<P, 16, 12>(one, token);
        token = multiply_by<P, 12, 8>(one, token);
        token = multiply_by<P, 8, 4>(one, token);
#endif
        multiply_by<P, 4, 0>(one, token);
    }
}

static void compute_in_floats(const PanelRun& run) {
    switch (run.part->layout - EXACT) {
        case PANEL_Q8_0: return compute_blocks<BytePanel<false, false, false>>(run);
        case PANEL_Q5_1: return compute_blocks<BytePanel<false, true, false>>(run);
        case PANEL_Q5_K: return compute_blocks<BytePanel<true, true, false>>(run);
        case PANEL_Q6_K: return compute_blocks<BytePanel<true, false, true>>(run);
        case PANEL_F32: return compute_floats<FloatPanel<PANEL_F32>>(run);
        case PANEL_F16: return compute_floats<FloatPanel<PANEL_F16>>(run);
        default: return compute_floats<FloatPanel<PANEL_BF16>>(run);
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
