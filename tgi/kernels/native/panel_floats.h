// Activations in float32 times weights in panels: exact arithmetic, on the panels that integer.h multiplies too.
//
// Element (token, row) is one chain over the columns, in order: sum = fma(weight, x, sum), from zero, where the weight
// is the stored one in float32 (for blocks: fma(integer, scale, minimum), whose product is exact). Then bias, then what
// `out` held. How many tokens, rows or columns are computed together never changes a chain.
//
// Lanes are rows. Tokens multiply weights as these are unpacked, as many tokens at once as there are registers for their
// sums; what a panel takes in the first-level cache is unpacked again for the next ones. Where registers are too few to
// make up for that, a stretch of columns is unpacked into a tile that stays in the caches.
#pragma once

#include "panels.h"

namespace tgi {
namespace TGI_PATH {

// --- Register tiles ------------------------------------------------------------------------------------------------

// N panels against M tokens; sums [M][N * PANEL_ROWS]. What lies `ahead` of each is asked for: the panels after these.
template <class P, int M, int N>
TGI_INLINE void multiply_unpacked(
    const uint8_t* const* panels, const float* const* x, int64_t columns, int64_t ahead, float* sums) {
    constexpr int WIDTH = N * PARTS;
    Lanes total[M * WIDTH];
TGI_UNROLL
    for (int i = 0; i < M * WIDTH; i++) total[i] = every(0.0f);
    for (int64_t k = 0; k < columns; k += P::STEP) {
        int64_t at = k / P::STEP * P::BYTES;
        typename P::Group group[N];
TGI_UNROLL
        for (int n = 0; n < N; n++) {
            const uint8_t* source = panels[n] + at;
            if (ahead)
                for (int64_t i = 0; i < P::BYTES; i += 64) __builtin_prefetch(source + ahead + i, 0, 2);
            P::open(source, &group[n]);
        }
TGI_UNROLL
        for (int half = 0; half < P::HALF_COUNT; half++) {
            for (int run = 0; run < P::RUNS; run++) {
                typename P::Raw raw[WIDTH];
TGI_UNROLL
                for (int i = 0; i < WIDTH; i++) raw[i] = P::read(group[i / PARTS], half, run, i % PARTS);
                int64_t column = k + (half * P::RUNS + run) * P::RUN;
TGI_UNROLL
                for (int c = 0; c < P::RUN; c++) {
TGI_UNROLL
                    for (int i = 0; i < WIDTH; i++) {
                        Lanes w = P::weight(group[i / PARTS], raw[i], half, c, i % PARTS);
TGI_UNROLL
                        for (int m = 0; m < M; m++)
                            total[m * WIDTH + i] = fused_lanes(every(x[m][column + c]), w, total[m * WIDTH + i]);
                    }
                }
            }
        }
    }
TGI_UNROLL
    for (int i = 0; i < M * WIDTH; i++) put_lanes(sums + i * LANES, total[i]);
}

// --- Tiles in the caches -------------------------------------------------------------------------------------------

#if !defined(TGI_VNNI)

constexpr int TILE_TOKENS = 6;
constexpr int64_t TILE_COLUMNS = 256;
constexpr int64_t TILE_MOST_TOKENS = 252;  // sums of this many wait for their next stretch of columns

template <class P>
static void unpack_tile(const uint8_t* panel, int64_t first, int64_t count, float* tile) {
    for (int64_t k = 0; k < count; k += P::STEP) {
        typename P::Group group;
        P::open(panel + (first + k) / P::STEP * P::BYTES, &group);
        float* to = tile + k * PANEL_ROWS;
TGI_UNROLL
        for (int half = 0; half < P::HALF_COUNT; half++) {
            for (int run = 0; run < P::RUNS; run++) {
TGI_UNROLL
                for (int p = 0; p < PARTS; p++) {
                    typename P::Raw raw = P::read(group, half, run, p);
TGI_UNROLL
                    for (int c = 0; c < P::RUN; c++)
                        put_lanes(to + c * PANEL_ROWS + p * LANES, P::weight(group, raw, half, c, p));
                }
                to += P::RUN * PANEL_ROWS;
            }
        }
    }
}

// `count` columns of the tile against M tokens; sums [M][PANEL_ROWS] go on.
template <int M>
static void multiply_tile_of(const float* tile, const float* const* x, int64_t first, int64_t count, float* sums) {
    constexpr int WIDTH = PARTS;
    Lanes total[M * WIDTH];
TGI_UNROLL
    for (int i = 0; i < M * WIDTH; i++) total[i] = lanes_at(sums + i * LANES);
    for (int64_t k = 0; k < count; k++) {
        Lanes w[WIDTH];
TGI_UNROLL
        for (int i = 0; i < WIDTH; i++) w[i] = lanes_at(tile + (k * WIDTH + i) * LANES);
TGI_UNROLL
        for (int m = 0; m < M; m++) {
            Lanes value = every(x[m][first + k]);
TGI_UNROLL
            for (int i = 0; i < WIDTH; i++) total[m * WIDTH + i] = fused_lanes(value, w[i], total[m * WIDTH + i]);
        }
    }
TGI_UNROLL
    for (int i = 0; i < M * WIDTH; i++) put_lanes(sums + i * LANES, total[i]);
}

#endif

// --- A matmul unit -------------------------------------------------------------------------------------------------

// Rows of a part from a panel on: where the panels lie, and where their outputs go.
struct PanelRun {
    const MatmulTask* task;
    const Matrix* part;
    int64_t panel;   // the first
    int64_t count;   // panels
    int64_t output;  // of the part's row 0
    int64_t bytes;   // of a panel
};

// Finished sums of a token for N panels, as far as the part has rows.
template <int N>
TGI_INLINE void finish_panels(const PanelRun& run, int64_t panel, int64_t token, const float* sums) {
    const MatmulTask& task = *run.task;
    int64_t row = panel * PANEL_ROWS, rows = (run.panel + run.count) * PANEL_ROWS;
    rows = (rows < run.part->rows ? rows : run.part->rows) - row;
    if (rows > N * PANEL_ROWS) rows = N * PANEL_ROWS;
    float* out = task.out + token * task.out_stride + run.output + row;
    const float* bias = task.bias ? task.bias + run.output + row : nullptr;
    for (int64_t n = 0; n < rows; n++) {
        float value = bias ? sums[n] + bias[n] : sums[n];
        out[n] = task.accumulate ? out[n] + value : value;
    }
}

// Where M tokens lie from `token` on, and N panels from `panel` on. What is not there is the last one again: its
// results are computed and dropped.
template <int M>
TGI_INLINE void find_tokens(const MatmulTask& task, int64_t token, const float** x) {
    for (int m = 0; m < M; m++) x[m] = task.x + (token + m < task.tokens ? token + m : task.tokens - 1) * task.x_stride;
}

template <int N>
TGI_INLINE void find_panels(const PanelRun& run, int64_t panel, const uint8_t** panels) {
    int64_t last = run.panel + run.count - 1;
    for (int n = 0; n < N; n++) panels[n] = run.part->data + (panel + n < last ? panel + n : last) * run.bytes;
}

// M tokens from `token` on, N panels at a time.
template <class P, int M, int N>
static void multiply_tokens(PanelRun run, int64_t token) {
    const MatmulTask& task = *run.task;
    const float* x[M];
    find_tokens<M>(task, token, x);
    for (; run.count > 0; run.panel += N, run.count -= N) {
        alignas(64) float sums[M * N * PANEL_ROWS];
        const uint8_t* panels[N];
        find_panels<N>(run, run.panel, panels);
        multiply_unpacked<P, M, N>(panels, x, task.columns, token ? 0 : N * run.bytes, sums);
        for (int m = 0; m < M && token + m < task.tokens; m++)
            finish_panels<N>(run, run.panel, token + m, sums + m * N * PANEL_ROWS);
    }
}

#if !defined(TGI_VNNI)

template <class P>
static void multiply_many_tokens(const PanelRun& run) {
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
                    find_tokens<TILE_TOKENS>(task, start + token, x);
                    float* into = sums + token * PANEL_ROWS;
                    if (tokens - token > TILE_TOKENS / 3 * 2)
                        multiply_tile_of<TILE_TOKENS>(tile, x, k, count, into);
                    else if (tokens - token > TILE_TOKENS / 3)
                        multiply_tile_of<TILE_TOKENS / 3 * 2>(tile, x, k, count, into);
                    else
                        multiply_tile_of<TILE_TOKENS / 3>(tile, x, k, count, into);
                }
            }
            for (int64_t m = 0; m < tokens; m++) finish_panels<1>(run, panel, start + m, sums + m * PANEL_ROWS);
        }
    }
}

#endif

// Tokens from `token` on against one panel, M at a time, the rest with half as many.
template <class P, int M>
static int64_t multiply_by(const PanelRun& panel, int64_t token) {
    constexpr int SMALLER = M == 16 ? 12 : M == 12 ? 8 : M / 2;
    for (; panel.task->tokens - token > SMALLER; token += M) multiply_tokens<P, M, 1>(panel, token);
    return token;
}

// All tokens against a run of panels: several panels together where one would not keep the multipliers busy, and a panel
// after the other, for all tokens, where there are many.
template <class P>
static void compute_floats(const PanelRun& run) {
    [[maybe_unused]] constexpr bool BLOCKS = P::STEP > 1;
    int64_t tokens = run.task->tokens;
    constexpr int FEW = 4;
#if defined(TGI_VNNI)
    if (tokens == 1) return multiply_tokens<P, 1, 4>(run, 0);
    if (tokens == 2) return multiply_tokens<P, 2, 4>(run, 0);
    if (tokens <= FEW) return multiply_tokens<P, FEW, 2>(run, 0);
#else
    if (tokens == 1) return multiply_tokens<P, 1, 2>(run, 0);
    if (tokens == 2) return multiply_tokens<P, 2, 2>(run, 0);
    if (tokens > 2 * FEW && BLOCKS) return multiply_many_tokens<P>(run);
#endif
    PanelRun one = run;
    one.count = 1;
    for (; one.panel < run.panel + run.count; one.panel++) {
        int64_t token = 0;
#if defined(TGI_VNNI)
        if constexpr (BLOCKS) {
            token = multiply_by<P, 16>(one, token);
            token = multiply_by<P, 12>(one, token);
        }
        token = multiply_by<P, 8>(one, token);
#endif
        for (; token < tokens; token += FEW) multiply_tokens<P, FEW, 1>(one, token);
    }
}

// Panels [panel, panel + count) of a part whose layout is a PanelKind plus EXACT.
static void compute_exact(const MatmulTask& task, const Matrix& part, int64_t panel, int64_t count, int64_t output) {
    int64_t kind = part.layout - EXACT;
    int64_t columns = kind >= PANEL_F32 ? task.columns : (task.columns + GROUP - 1) / GROUP;
    PanelRun run{&task, &part, panel, count, output, columns * PANEL_SIZES[kind - FIRST_PANEL].bytes};
    switch (kind) {
        case PANEL_Q4_0: compute_floats<BlockPanel<true, false, false, false>>(run); break;
        case PANEL_Q4_1: compute_floats<BlockPanel<true, false, true, false>>(run); break;
        case PANEL_Q4_K: compute_floats<BlockPanel<true, true, true, false>>(run); break;
        case PANEL_Q8_0: compute_floats<BlockPanel<false, false, false, false>>(run); break;
        case PANEL_Q5_1: compute_floats<BlockPanel<false, false, true, false>>(run); break;
        case PANEL_Q5_K: compute_floats<BlockPanel<false, true, true, false>>(run); break;
        case PANEL_Q6_K: compute_floats<BlockPanel<false, true, false, true>>(run); break;
        case PANEL_F32: compute_floats<FloatPanel<PANEL_F32>>(run); break;
        case PANEL_F16: compute_floats<FloatPanel<PANEL_F16>>(run); break;
        default: compute_floats<FloatPanel<PANEL_BF16>>(run); break;
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
