// What the two sides of the library agree on: `api.cpp` (checks, splitting over threads) and one `path_*.cpp` for each
// instruction set, which hold the same sources compiled twice.
//
// Every operation is a task: a struct of arguments, a number of units that are independent of each other, and a
// function that computes units [begin, end). Results never depend on how units are dealt out to threads.
#pragma once

#include <cstdint>

namespace tgi {

// The order is the one of LAYOUTS in cpu.py.
enum Layout : int32_t { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, LAYOUT_COUNT };

struct LayoutSize {
    int64_t values;  // per block
    int64_t bytes;   // per block
};

constexpr LayoutSize LAYOUT_SIZES[LAYOUT_COUNT] = {
    {1, 4},   {1, 2},    {1, 2},     {32, 18},   {32, 20},   {32, 22},  {32, 24},
    {32, 34}, {256, 84}, {256, 110}, {256, 144}, {256, 176}, {256, 210},
};

// Weights packed for integer.h and panel_blocks.h: panels of PANEL_ROWS rows, each a run of groups of GROUP columns. A
// group is the rows'
// scales, their minimums where the layout has any, then the integers without sign: step j (columns 4j to 4j + 3) of all
// rows in 64 bytes, four columns a row; as nibbles, step j in the low and step j + 4 in the high ones.
//
// Named after the layout they are made of; PANEL_Q8_0 also holds Q5_0. Integers of layouts without minimums are stored
// plus 8 (nibbles) or plus 128 (bytes). Panels of floats have no groups: a column after the other, all rows of it.
enum PanelKind : int64_t {
    FIRST_PANEL = 32,
    PANEL_Q4_0 = FIRST_PANEL, PANEL_Q4_1, PANEL_Q4_K, PANEL_Q8_0, PANEL_Q5_1, PANEL_Q5_K, PANEL_Q6_K,
    PANEL_F32, PANEL_F16, PANEL_BF16, PANEL_END,
};

// Added to a PanelKind: as exact as float32. Activations meet nibbles in 22 bits, bytes and floats as they are.
constexpr int64_t EXACT = 64;

constexpr int64_t PANEL_ROWS = 16;
constexpr int64_t GROUP = 32;

struct PanelSize {
    bool nibbles;   // two integers a byte
    bool wide;      // scales and minimums in float32, else half precision
    bool minimums;
    bool halves;    // two scales a group, for 16 columns each
    int64_t bytes;  // of a group, or of a column of floats
};

constexpr PanelSize PANEL_SIZES[PANEL_END - FIRST_PANEL] = {
    {true, false, false, false, 288},  {true, false, true, false, 320}, {true, true, true, false, 384},
    {false, false, false, false, 544}, {false, false, true, false, 576}, {false, true, true, false, 640},
    {false, true, false, true, 640},   {false, true, false, false, 64},  {false, false, false, false, 32},
    {false, false, false, false, 32},
};

// 32 activations of a token in 8 bits. `start_*`: what turns products with stored integers into those with true ones.
struct alignas(64) TokenGroup {
    int8_t integers[GROUP];   // -127 to 127
    float scale;              // NaN when one of the activations is not finite
    float scaled_sum;         // scale * sum of the integers
    int32_t start_nibbles;    // -8 * sum
    int32_t start_bytes;      // -128 * sum
    int32_t start_halves[2];  // -128 * sum of 16
};

// The same in 22 bits, as exact as float32 sums: integers are (high * 2^7 + middle) * 2^7 + low, at most FINEST. Times
// 15, 32 of them fit into 32 bits. Digits are that small for nibble_pairs.h.
struct alignas(64) FineTokenGroup {
    int8_t integers[3][GROUP];  // high (-112 to 112), middle, low (-64 to 63)
    float scale;
    float scaled_sum;
    int32_t start_nibbles;  // -8 * sum
    int32_t start_pairs;    // of nibble_pairs.h
};
constexpr int DIGIT_BITS = 7;
constexpr int FINEST = 112 << 2 * DIGIT_BITS;

// Groups whose largest magnitude is below this count as zeros: FINEST / magnitude must be finite.
constexpr float SMALLEST = 0x1p-100f;

template <class Token>
struct QuantizeTask {
    const float* x;
    int64_t x_stride;
    int64_t columns;
    Token* out;  // [tokens][groups]; TokenGroup or FineTokenGroup
    const int32_t* outliers = nullptr;  // columns that count as zero, ascending, and what they held:
    int64_t outlier_count = 0;
    float* apart = nullptr;  // [tokens][outlier_count]
};

enum CacheType : int32_t { CACHE_F32, CACHE_F16, CACHE_BF16 };

enum Activation : int32_t { SILU, GELU, GELU_TANH, RELU };

// A `Matrix` of weights.py. Layout shared with cpu.py.
struct Matrix {
    const uint8_t* data;
    int64_t rows;
    int64_t columns;
    int64_t layout;  // Layout, PanelKind, or PanelKind plus EXACT
    // Columns that panels of integers leave to float32, ascending, the same in all parts of a matmul.
    const int32_t* outliers = nullptr;
    int64_t outlier_count = 0;
    const float* outlier_weights = nullptr;  // [panels][outlier_count][PANEL_ROWS]
};

// Weight rows a matmul unit covers: three times the four that meet three tokens in the twelve accumulators there are.
constexpr int64_t TILE_ROWS = 12;

// What a part is multiplied by.
enum Arithmetic { ROWS, COARSE, FINE, FLOATS };  // rows as stored; panels: TokenGroup, FineTokenGroup, float32

constexpr Arithmetic arithmetic_of(int64_t layout) {
    if (layout < FIRST_PANEL) return ROWS;
    if (layout < EXACT) return COARSE;
    return PANEL_SIZES[layout - EXACT - FIRST_PANEL].nibbles ? FINE : FLOATS;
}

// Panels a unit in float32 covers: enough chains of sums to keep the multipliers busy.
constexpr int64_t PANELS_A_UNIT = 2;

// Rows of a part that a matmul unit covers.
constexpr int64_t unit_rows(const Matrix& part) {
    Arithmetic by = arithmetic_of(part.layout);
    return by == FLOATS ? PANELS_A_UNIT * PANEL_ROWS : by == ROWS ? TILE_ROWS : PANEL_ROWS;
}

struct MatmulTask {
    const float* x;
    int64_t x_stride;
    int64_t tokens;
    int64_t columns;
    const Matrix* parts;
    int64_t part_count;
    const float* bias;  // or null
    float* out;
    int64_t out_stride;
    bool accumulate;  // add to what `out` holds
    const TokenGroup* coarse;    // [tokens][groups] of x, for parts in panels, or null
    const FineTokenGroup* fine;  // the same, for parts in panels of nibbles plus EXACT
    const float* scaled;         // of x, for parts in panels of bytes plus EXACT: see ScaleTask
    int64_t scaled_stride;
    const float* apart;  // [tokens][outliers] of x, beside `coarse`
};

// Columns multiplied in float32 before the groups: of one panel, and of tokens.
struct Apart {
    const float* weights;  // [count][PANEL_ROWS]
    const float* x;        // [tokens][count]
    int64_t count;
};

// Panels of a part: where they lie, and where their outputs go.
struct PanelRun {
    const MatmulTask* task;
    const Matrix* part;
    int64_t panel;   // the first
    int64_t count;   // panels
    int64_t output;  // of the part's row 0
    int64_t bytes;   // of a panel
};

// Activations for integers that are taken where they lie in 32 bits: x * 2^(-8 * (column % 4)), exact unless it is below
// 2^-102; then the sums of x over groups.
struct ScaleTask {
    const float* x;
    int64_t x_stride;
    int64_t columns;  // a multiple of GROUP
    float* out;       // rows of columns + columns / GROUP
    int64_t out_stride;
};

struct EmbeddingTask {
    const int32_t* ids;
    Matrix table;
    float* out;
};

// Vectors of `width` floats at x + outer * stride_outer + inner * stride_inner; unit = outer * inner_count + inner.
struct NormTask {
    const float* x;
    int64_t inner_count;
    int64_t stride_outer;
    int64_t stride_inner;
    int64_t width;
    const float* weight;
    const float* bias;  // or null; layer norm only
    float eps;
    float* out;
};

struct RotaryTask {
    float* heads[2];  // q, k
    int64_t head_count[2];
    int64_t token_stride[2];
    int64_t head_stride[2];
    const float* cos;
    const float* sin;
    int64_t half;
    bool interleaved;
};

struct WriteTask {
    const float* values[2];  // k, v
    int64_t token_stride[2];
    int64_t head_stride[2];
    void* cache[2];
    int32_t cache_type;
    int64_t kv_heads;
    int64_t head_dim;
    const int64_t* slots;
};

// A few consecutive tokens of one request, which read the same keys.
struct QueryGroup {
    int32_t request;
    int32_t first;     // index of the first token
    int32_t count;     // tokens
    int32_t position;  // of the first token
    int32_t spans;     // SPAN positions each, of what its last token sees, from position 0
    int64_t partial;   // where its results begin in AttentionTask::partials, in rows; unused with one span
};

// A span of a group, for some of the kv heads: what one thread computes.
struct SpanOfGroup {
    int32_t group;
    int32_t span;
    int32_t kv_head;  // the first
    int32_t kv_heads;
};

// Positions of a context that are attended to on their own; a multiple of eight.
constexpr int64_t SPAN = 512;

// Query vectors computed together: `QueryGroup::count` x heads sharing a kv head x kv heads, at most this many.
constexpr int64_t GROUP_ROWS = 64;
constexpr int64_t MAX_HEAD_DIM = 512;
constexpr int64_t PARTIAL_EXTRA = 8;  // floats after the sums of a row; two are used

struct AttentionTask {
    const float* q;
    int64_t q_token_stride;
    int64_t q_head_stride;
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    const void* k_cache;
    const void* v_cache;
    int32_t cache_type;
    int64_t block_size;
    const int32_t* block_tables;
    int64_t table_stride;
    const QueryGroup* groups;
    const SpanOfGroup* spans;  // unit = (span of a group, slice of the heads that share a kv head)
    float* partials;           // rows of head_dim up to whole vectors, then the largest score and the sum of weights
    float scale;
    int64_t window;
    float* out;
};

struct ActivationTask {
    const float* x;
    int64_t width;
    bool gated;  // x holds 2 * width columns: gate, then up
    int32_t activation;
    float* out;
};

// Of a stretch of a row: its largest logit, and the sum of e^(logit - the largest).
struct GreedyPart {
    float most;
    float total;
};

// Columns of a stretch: they stay in the first-level cache, and every thread has some of a single row.
constexpr int64_t GREEDY_COLUMNS = 4096;

struct GreedyTask {
    const float* logits;
    int64_t stride;
    int64_t width;
    int64_t parts;      // stretches of a row
    GreedyPart* found;  // [rows][parts]; unit = row * parts + part
    int32_t* token_ids;
    float* logprobs;
};

using Units = void (*)(const void* task, int64_t begin, int64_t end);

struct Kernels {
    Units quantize;
    Units quantize_fine;
    Units scale;
    Units matmul;
    Units embedding;
    Units rms_norm;
    Units layer_norm;
    Units rotary;
    Units write_kv;
    Units attention;
    Units merge_spans;
    Units activate;
    Units greedy;
    Units greedy_rows;
};

extern const Kernels PORTABLE_KERNELS;
#if defined(TGI_HAVE_AVX2)
extern const Kernels AVX2_KERNELS;
extern const Kernels AVX512_KERNELS;
extern const Kernels AVX512_BF16_KERNELS;
#endif

}  // namespace tgi
