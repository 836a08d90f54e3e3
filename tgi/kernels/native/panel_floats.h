// Activations in float32 times weights in panels: exact arithmetic, on the panels that integer.h multiplies too.
//
// Element (token, row) is one chain over the columns, in order: sum = fma(weight, x, sum), from zero, where the weight
// is the stored one in float32 (for blocks: fma(integer, scale, minimum), whose product is exact). Then bias, then what
// `out` held. How many tokens, rows or columns are computed together never changes a chain.
//
// Lanes are rows. Few tokens multiply weights as they are unpacked; for more, a stretch of columns is unpacked once into
// a tile that stays in the caches, and all tokens run over it in register tiles.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace tgi {
namespace TGI_PATH {

// The compiler unrolls by itself where it has real vectors; told to do so without any, it takes minutes.
#if defined(TGI_AVX2)
#define TGI_UNROLL _Pragma("GCC unroll 32")
#else
#define TGI_UNROLL
#endif

// --- One row of lanes ----------------------------------------------------------------------------------------------

#if defined(TGI_VNNI)
typedef float Lanes __attribute__((vector_size(64)));
TGI_INLINE Lanes every(float value) { return (Lanes)_mm512_set1_ps(value); }
TGI_INLINE Lanes lanes_at(const float* source) { return (Lanes)_mm512_loadu_ps(source); }
TGI_INLINE void put_lanes(float* target, Lanes value) { _mm512_storeu_ps(target, (__m512)value); }
TGI_INLINE Lanes fused_lanes(Lanes a, Lanes b, Lanes c) {
    return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
#else
typedef Float8 Lanes;
TGI_INLINE Lanes every(float value) { return all(value); }
TGI_INLINE Lanes lanes_at(const float* source) { return load(source); }
TGI_INLINE void put_lanes(float* target, Lanes value) { store(target, value); }
TGI_INLINE Lanes fused_lanes(Lanes a, Lanes b, Lanes c) { return fused(a, b, c); }
#endif

constexpr int LANES = sizeof(Lanes) / sizeof(float);
constexpr int PARTS = PANEL_ROWS / LANES;  // vectors that hold a column of a panel

// --- Stored panels -------------------------------------------------------------------------------------------------

// Half-precision numbers, LANES of them.
TGI_INLINE Lanes halves_at(const uint8_t* source) {
#if defined(TGI_VNNI)
    return (Lanes)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
#elif defined(TGI_AVX2)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#else
    Lanes out;
    for (int i = 0; i < LANES; i++) {
        uint16_t half;
        std::memcpy(&half, source + 2 * i, sizeof half);
        out[i] = half_to_float(half);
    }
    return out;
#endif
}

TGI_INLINE Lanes brains_at(const uint8_t* source) {
#if defined(TGI_VNNI)
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    return (Lanes)_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
#elif defined(TGI_AVX2)
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
#else
    Lanes out;
    for (int i = 0; i < LANES; i++) {
        uint16_t brain;
        std::memcpy(&brain, source + 2 * i, sizeof brain);
        out[i] = brain_to_float(brain);
    }
    return out;
#endif
}

// One stored integer of each lane's row: four columns lie in 32 bits a row, `column` counts within them.
template <bool NIBBLES>
TGI_INLINE Lanes integers_at(const uint8_t* source, int shift) {
#if defined(TGI_VNNI)
    __m512i four = _mm512_srli_epi32(_mm512_loadu_si512(source), static_cast<unsigned>(shift));
    if (NIBBLES) {  // the table is looked up by the low four bits alone
        const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return (Lanes)_mm512_permutexvar_ps(four, table);
    }
    return (Lanes)_mm512_cvtepi32_ps(_mm512_and_si512(four, _mm512_set1_epi32(255)));
#elif defined(TGI_AVX2)
    __m256i four = _mm256_srli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)), shift);
    return _mm256_cvtepi32_ps(_mm256_and_si256(four, _mm256_set1_epi32(NIBBLES ? 15 : 255)));
#else
    Lanes out;
    for (int i = 0; i < LANES; i++) out[i] = static_cast<float>(source[4 * i + shift / 8] >> (shift % 8) & (NIBBLES ? 15 : 255));
    return out;
#endif
}

// Floats as stored: a column after the other, PANEL_ROWS values each.
template <int LAYOUT>
struct FloatPanel {
    static constexpr int64_t STEP = 1;  // columns unpacked together
    static constexpr int64_t BYTES = PANEL_ROWS * (LAYOUT == PANEL_F32 ? 4 : 2);
    struct Group {
        const uint8_t* source[PARTS];
    };
    TGI_INLINE void open(const uint8_t* column, Group* group) {
        for (int p = 0; p < PARTS; p++) group->source[p] = column + p * BYTES / PARTS;
    }
    TGI_INLINE Lanes weight(const Group& group, int, int part) {
        if (LAYOUT == PANEL_F32) return lanes_at(reinterpret_cast<const float*>(group.source[part]));
        return LAYOUT == PANEL_F16 ? halves_at(group.source[part]) : brains_at(group.source[part]);
    }
};

// Integers in groups of 32 columns; see PanelKind.
template <bool NIBBLES, bool WIDE, bool MINIMUMS, bool HALVES>
struct BlockPanel {
    static constexpr int64_t STEP = GROUP;
    static constexpr int64_t SCALE_BYTES = PANEL_ROWS * (WIDE ? 4 : 2);
    static constexpr int64_t MINIMUM = SCALE_BYTES * (HALVES ? 2 : 1);
    static constexpr int64_t QUANTS = MINIMUM + (MINIMUMS ? SCALE_BYTES : 0);
    static constexpr int64_t BYTES = QUANTS + PANEL_ROWS * GROUP / (NIBBLES ? 2 : 1);
    struct Group {
        const uint8_t* quants;
        Lanes scale[HALVES ? 2 : 1][PARTS];
        Lanes minimum[HALVES ? 2 : 1][PARTS];
    };
    TGI_INLINE Lanes scales_at(const uint8_t* source, int part) {
        if (WIDE) return lanes_at(reinterpret_cast<const float*>(source) + LANES * part);
        return halves_at(source + 2 * LANES * part);
    }
    TGI_INLINE void open(const uint8_t* panel, Group* group) {
        group->quants = panel + QUANTS;
TGI_UNROLL
        for (int p = 0; p < PARTS; p++) {
TGI_UNROLL
            for (int h = 0; h < (HALVES ? 2 : 1); h++) {
                group->scale[h][p] = scales_at(panel + h * SCALE_BYTES, p);
                // What stored integers are too large by, times the scale: exact, as every product below is.
                group->minimum[h][p] = MINIMUMS ? scales_at(panel + MINIMUM, p)
                                                : group->scale[h][p] * every(NIBBLES ? -8.0f : -128.0f);
            }
        }
    }
    TGI_INLINE Lanes weight(const Group& group, int column, int part) {
        int step = column / 4, half = HALVES && column >= GROUP / 2;
        int shift = column % 4 * 8 + (NIBBLES && step >= 4 ? 4 : 0);
        const uint8_t* source = group.quants + (NIBBLES ? step % 4 : step) * 64 + part * LANES * 4;
        return fused_lanes(integers_at<NIBBLES>(source, shift), group.scale[half][part], group.minimum[half][part]);
    }
};

// --- Few tokens ----------------------------------------------------------------------------------------------------

// N panels against M tokens; sums [M][N * PANEL_ROWS]. What lies `ahead` of each is asked for: the panels after these.
template <class P, int M, int N>
TGI_INLINE void multiply_unpacked(
    const uint8_t* const* panels, const float* const* x, int64_t columns, int64_t ahead, float* sums) {
    Lanes total[M * N * PARTS];
TGI_UNROLL
    for (int i = 0; i < M * N * PARTS; i++) total[i] = every(0.0f);
    for (int64_t k = 0; k < columns; k += P::STEP) {
        int64_t at = k / P::STEP * P::BYTES;
        typename P::Group group[N];
TGI_UNROLL
        for (int n = 0; n < N; n++) {
            const uint8_t* source = panels[n] + at;
            for (int64_t i = 0; i < P::BYTES; i += 64) __builtin_prefetch(source + ahead + i, 0, 2);
            P::open(source, &group[n]);
        }
TGI_UNROLL
        for (int c = 0; c < P::STEP; c++) {
TGI_UNROLL
            for (int i = 0; i < N * PARTS; i++) {
                Lanes w = P::weight(group[i / PARTS], c, i % PARTS);
TGI_UNROLL
                for (int m = 0; m < M; m++)
                    total[m * N * PARTS + i] = fused_lanes(every(x[m][k + c]), w, total[m * N * PARTS + i]);
            }
        }
    }
TGI_UNROLL
    for (int i = 0; i < M * N * PARTS; i++) put_lanes(sums + i * LANES, total[i]);
}

// --- Many tokens ---------------------------------------------------------------------------------------------------

#if defined(TGI_VNNI)
constexpr int TILE_PANELS = 2, TILE_TOKENS = 12;
#else
constexpr int TILE_PANELS = 1, TILE_TOKENS = 6;
#endif
constexpr int64_t TILE_COLUMNS = 256;
constexpr int64_t TILE_MOST_TOKENS = 252;  // sums of this many wait for their next stretch of columns

template <class P>
static void unpack_tile(const uint8_t* const* panels, int64_t first, int64_t count, float* tile) {
    for (int n = 0; n < TILE_PANELS; n++) {
        for (int64_t k = 0; k < count; k += P::STEP) {
            typename P::Group group;
            P::open(panels[n] + (first + k) / P::STEP * P::BYTES, &group);
TGI_UNROLL
            for (int c = 0; c < P::STEP; c++) {
TGI_UNROLL
                for (int p = 0; p < PARTS; p++)
                    put_lanes(tile + (k + c) * TILE_PANELS * PANEL_ROWS + n * PANEL_ROWS + p * LANES, P::weight(group, c, p));
            }
        }
    }
}

// `count` columns of the tile against M tokens; sums [M][TILE_PANELS * PANEL_ROWS] go on.
template <int M>
static void multiply_tile_of(const float* tile, const float* const* x, int64_t first, int64_t count, float* sums) {
    constexpr int WIDTH = TILE_PANELS * PARTS;
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

// N panels at a time while there are so many, and PANELS_A_UNIT in the end.
template <class P, int M, int N>
static void multiply_few_tokens(PanelRun run) {
    const MatmulTask& task = *run.task;
    const float* x[M];
    find_tokens<M>(task, 0, x);
    for (; N <= PANELS_A_UNIT ? run.count > 0 : run.count >= N; run.panel += N, run.count -= N) {
        alignas(64) float sums[M * N * PANEL_ROWS];
        const uint8_t* panels[N];
        find_panels<N>(run, run.panel, panels);
        multiply_unpacked<P, M, N>(panels, x, task.columns, N * run.bytes, sums);
        for (int m = 0; m < M && m < task.tokens; m++) finish_panels<N>(run, run.panel, m, sums + m * N * PANEL_ROWS);
    }
    if constexpr (N > PANELS_A_UNIT)
        if (run.count > 0) multiply_few_tokens<P, M, PANELS_A_UNIT>(run);
}

template <class P>
static void multiply_many_tokens(const PanelRun& run) {
    constexpr int WIDTH = TILE_PANELS * PANEL_ROWS;
    const MatmulTask& task = *run.task;
    alignas(64) float tile[TILE_COLUMNS * WIDTH];
    alignas(64) float sums[TILE_MOST_TOKENS * WIDTH];
    for (int64_t panel = run.panel; panel < run.panel + run.count; panel += TILE_PANELS) {
        const uint8_t* panels[TILE_PANELS];
        find_panels<TILE_PANELS>(run, panel, panels);
        for (int64_t start = 0; start < task.tokens; start += TILE_MOST_TOKENS) {
            int64_t tokens = task.tokens - start < TILE_MOST_TOKENS ? task.tokens - start : TILE_MOST_TOKENS;
            int64_t padded = (tokens + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
            std::memset(sums, 0, sizeof(float) * static_cast<size_t>(padded * WIDTH));
            for (int64_t k = 0; k < task.columns; k += TILE_COLUMNS) {
                int64_t count = task.columns - k < TILE_COLUMNS ? task.columns - k : TILE_COLUMNS;
                unpack_tile<P>(panels, k, count, tile);
                for (int64_t token = 0; token < tokens; token += TILE_TOKENS) {
                    const float* x[TILE_TOKENS];
                    find_tokens<TILE_TOKENS>(task, start + token, x);
                    float* into = sums + token * WIDTH;
                    if (tokens - token > TILE_TOKENS / 3 * 2)
                        multiply_tile_of<TILE_TOKENS>(tile, x, k, count, into);
                    else if (tokens - token > TILE_TOKENS / 3)
                        multiply_tile_of<TILE_TOKENS / 3 * 2>(tile, x, k, count, into);
                    else
                        multiply_tile_of<TILE_TOKENS / 3>(tile, x, k, count, into);
                }
            }
            for (int64_t m = 0; m < tokens; m++) finish_panels<TILE_PANELS>(run, panel, start + m, sums + m * WIDTH);
        }
    }
}

template <class P>
static void compute_floats(const PanelRun& run) {
    [[maybe_unused]] int64_t tokens = run.task->tokens;
#if defined(TGI_VNNI)
    if (tokens == 1) return multiply_few_tokens<P, 1, 4>(run);
    if (tokens == 2) return multiply_few_tokens<P, 2, 4>(run);
    if (tokens <= 4) return multiply_few_tokens<P, 4, 2>(run);
    if (tokens <= 8) return multiply_few_tokens<P, 8, 2>(run);
#elif defined(TGI_AVX2)
    if (tokens == 1) return multiply_few_tokens<P, 1, 2>(run);
    if (tokens == 2) return multiply_few_tokens<P, 2, 2>(run);
    if (tokens <= 4) return multiply_few_tokens<P, 4, 1>(run);
#endif
    multiply_many_tokens<P>(run);
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
