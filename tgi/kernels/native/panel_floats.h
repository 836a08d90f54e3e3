// Activations in float32 times panels of floats.
//
// Element (token, row) is one chain over the columns, in order: sum = fma(weight, x, sum), from zero; then bias, then
// what `out` held. How many tokens, rows or columns are computed together never changes a chain.
//
// Lanes are rows. Tokens multiply weights as these are unpacked, as many tokens at once as there are registers for
// their sums; a panel stays in the caches until all have.
#pragma once

#include "finish.h"
#include "panels.h"

namespace tgi {
namespace TGI_PATH {

// Finished sums of a token for N panels, as far as the part has rows.
template <int N>
TGI_INLINE void finish_panels(const PanelRun& run, int64_t panel, int64_t token, const float* sums) {
    const MatmulTask& task = *run.task;
    int64_t row = panel * PANEL_ROWS, rows = (run.panel + run.count) * PANEL_ROWS;
    rows = (rows < run.part->rows ? rows : run.part->rows) - row;
    if (rows > N * PANEL_ROWS) rows = N * PANEL_ROWS;
    finish(task, token, sums, rows, run.output + row);
}

// Where M tokens lie from `token` on, and N panels from `panel` on. What is not there is the last one again: its
// results are computed and dropped.
template <int M>
TGI_INLINE void find_tokens(
    const MatmulTask& task, const float* first, int64_t stride, int64_t token, const float** x) {
    for (int m = 0; m < M; m++) x[m] = first + (token + m < task.tokens ? token + m : task.tokens - 1) * stride;
}

template <int N>
TGI_INLINE void find_panels(const PanelRun& run, int64_t panel, const uint8_t** panels) {
    int64_t last = run.panel + run.count - 1;
    for (int n = 0; n < N; n++) panels[n] = run.part->data + (panel + n < last ? panel + n : last) * run.bytes;
}

// N panels against M tokens; sums [M][N * PANEL_ROWS]. What lies `ahead` of each is asked for: the panels after these.
template <class P, int M, int N>
TGI_INLINE void multiply_columns(
    const uint8_t* const* panels, const float* const* x, int64_t columns, int64_t ahead, float* sums) {
    constexpr int WIDTH = N * PARTS;
    Lanes total[M * WIDTH];
TGI_UNROLL
    for (int i = 0; i < M * WIDTH; i++) total[i] = every(0.0f);
    for (int64_t k = 0; k < columns; k++) {
TGI_UNROLL
        for (int n = 0; n < N; n++) {
            const uint8_t* column = panels[n] + k * P::BYTES;
            if (ahead) __builtin_prefetch(column + ahead, 0, 2);
TGI_UNROLL
            for (int p = 0; p < PARTS; p++) {
                Lanes w = P::weight(column, p);
TGI_UNROLL
                for (int m = 0; m < M; m++) {
                    Lanes& sum = total[m * WIDTH + n * PARTS + p];
                    sum = fused_lanes(every(x[m][k]), w, sum);
                }
            }
        }
    }
TGI_UNROLL
    for (int i = 0; i < M * WIDTH; i++) put_lanes(sums + i * LANES, total[i]);
}

// M tokens from `token` on, N panels at a time.
template <class P, int M, int N>
static void multiply_floats(PanelRun run, int64_t token) {
    const MatmulTask& task = *run.task;
    const float* x[M];
    find_tokens<M>(task, task.x, task.x_stride, token, x);
    for (; run.count > 0; run.panel += N, run.count -= N) {
        alignas(64) float sums[M * N * PANEL_ROWS];
        const uint8_t* panels[N];
        find_panels<N>(run, run.panel, panels);
        multiply_columns<P, M, N>(panels, x, task.columns, token ? 0 : N * run.bytes, sums);
        for (int m = 0; m < M && token + m < task.tokens; m++)
            finish_panels<N>(run, run.panel, token + m, sums + m * N * PANEL_ROWS);
    }
}

// All tokens against a run of panels: several panels together where one would not keep the multipliers busy, and a
// panel after the other, for all tokens, where there are many.
template <class P>
static void compute_floats(const PanelRun& run) {
    int64_t tokens = run.task->tokens;
    constexpr int ALONE = sizeof(Lanes) == 64 ? 4 : 2;
    if (tokens == 1) return multiply_floats<P, 1, ALONE>(run, 0);
    if (tokens == 2) return multiply_floats<P, 2, ALONE>(run, 0);
    PanelRun one = run;
    one.count = 1;
    for (; one.panel < run.panel + run.count; one.panel++) {
        int64_t token = 0;
#if defined(TGI_VNNI)
        for (; tokens - token > 4; token += 8) multiply_floats<P, 8, 1>(one, token);
#endif
        for (; token < tokens; token += 4) multiply_floats<P, 4, 1>(one, token);
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
