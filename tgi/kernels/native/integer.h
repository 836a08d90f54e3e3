// Activations in 8 or 22 bits times weights in panels of small integers; `tgi.kernels.matmul` defines the result.
//
// Element (token, row) is a sum over groups of 32 columns, in order. Within a group the integers are multiplied and
// added exactly, so how that is done is each path's own affair; 22 bits are multiplied in three digits, and nibbles
// times 22 bits still fit into 32. Then, every step rounded once and each `fma` fused:
//
//   sum = fma(value of an outlier column, its weight, sum)             (in 8 bits alone; these are zero in their groups)
//   sum = fma(float(integers), weight scale * token scale, sum)        (Q6_K: twice, for 16 columns each)
//   sum = fma(token scale * float(sum of the token's integers), weight minimum, sum)        (where there are minimums)
//
// Hence every path, tile and thread count gives the same bits.
#pragma once

#include <type_traits>

#include "finish.h"
#include "quantize.h"
#if defined(TGI_VNNI)
#include "integer_vnni.h"
#elif defined(TGI_AVX2)
#include "integer_avx2.h"
#else
#include "integer_portable.h"
#endif

namespace tgi {
namespace TGI_PATH {

template <class P, int M, class Token>
static void multiply_panel(
    const MatmulTask& task, const Token* x, const uint8_t* panel, Apart apart, int64_t token, int64_t rows,
    int64_t output) {
    alignas(64) float sums[M * PANEL_ROWS];
    int64_t groups = (task.columns + GROUP - 1) / GROUP;
    for (int m = 0; m < M; m++) ask_for_result(task, token + m, output);
    apart.x += token * apart.count;
    panel_tokens<P, M>(panel, groups, x + token * groups, apart, sums);
    for (int m = 0; m < M; m++) finish(task, token + m, sums + m * PANEL_ROWS, rows, output);
}

// Panels [first, last) of a run against M tokens.
template <class P, int M, class Token>
TGI_INLINE void multiply_panels(const PanelRun& run, const Token* x, int64_t first, int64_t last, int64_t token) {
    const Matrix& part = *run.part;
    for (int64_t panel = first; panel < last; panel++) {
        int64_t row = panel * PANEL_ROWS, rows = part.rows - row < PANEL_ROWS ? part.rows - row : PANEL_ROWS;
        Apart apart{nullptr, nullptr, 0};
        if constexpr (std::is_same_v<Token, TokenGroup>)
            apart = {part.outlier_weights + panel * part.outlier_count * PANEL_ROWS, run.task->apart, part.outlier_count};
        multiply_panel<P, M>(*run.task, x, part.data + panel * run.bytes, apart, token, rows, run.output + row);
    }
}

constexpr int64_t PANELS_KEPT = 384 << 10;  // bytes

// A tile of tokens stays in the first-level cache while panels pass by, of which as many as the second level holds wait
// for the next tile.
template <class P, class Token>
static void compute_panels(const PanelRun& run, const Token* x) {
    int64_t tokens = run.task->tokens, end = run.panel + run.count, fit = PANELS_KEPT / run.bytes;
    constexpr int MOST = TOKENS_A_TILE<Token>;
    int64_t step = tokens <= MOST ? run.count : fit > 1 ? fit : 1;
    for (int64_t first = run.panel; first < end; first += step) {
        int64_t last = first + step < end ? first + step : end, token = 0;
        for (; token + MOST <= tokens; token += MOST) multiply_panels<P, MOST>(run, x, first, last, token);
        if constexpr (MOST > 8)
            for (; token + 8 <= tokens; token += 8) multiply_panels<P, 8>(run, x, first, last, token);
        for (; token + 4 <= tokens; token += 4) multiply_panels<P, 4>(run, x, first, last, token);
        for (; token + 2 <= tokens; token += 2) multiply_panels<P, 2>(run, x, first, last, token);
        if (token < tokens) multiply_panels<P, 1>(run, x, first, last, token);
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
