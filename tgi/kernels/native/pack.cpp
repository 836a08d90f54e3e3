// Stored weights into panels: the same integers and scales in another order, without losing a bit.

#include "pack.h"

#include <cstring>

// Half-precision scales of K-quants are multiplied out: at most 11 + 7 bits, which float32 holds.
#define TGI_PATH packing
#include "dequantize.h"

namespace tgi {

namespace {

// 32 columns of one row: integers without sign, and what they are scaled by.
struct Unpacked {
    uint8_t integers[GROUP];
    float scale[2];  // of each half; the second counts for PANEL_Q6_K alone
    float minimum;
};

void nibbles(const uint8_t* bytes, Unpacked& out) {
    for (int i = 0; i < 16; i++) {
        out.integers[i] = bytes[i] & 15;
        out.integers[i + 16] = bytes[i] >> 4;
    }
}

void fifth_bits(const uint8_t* bytes, Unpacked& out) {
    uint32_t high;
    std::memcpy(&high, bytes, sizeof high);
    for (int i = 0; i < GROUP; i++) out.integers[i] = static_cast<uint8_t>(out.integers[i] | (high >> i & 1u) << 4);
}

// Group `sub` (0..7) of a Q4_K or Q5_K block.
void unpack_k(const uint8_t* block, int sub, bool five, Unpacked& out) {
    int scale, minimum;
    packing::six_bits(block + 4, sub, &scale, &minimum);
    out.scale[0] = packing::scale_at(block) * static_cast<float>(scale);
    out.minimum = -(packing::scale_at(block + 2) * static_cast<float>(minimum));
    const uint8_t* q = block + (five ? 48 : 16) + sub / 2 * 32;
    for (int i = 0; i < GROUP; i++) {
        int value = q[i] >> (sub % 2 * 4) & 15;
        if (five) value |= (block[16 + i] >> sub & 1) << 4;
        out.integers[i] = static_cast<uint8_t>(value);
    }
}

// Group `group` (0..7) of a Q6_K block: 16 columns for each of two scales.
void unpack_q6_k(const uint8_t* block, int group, Unpacked& out) {
    const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192);
    float d = packing::scale_at(block + 208);
    for (int part = 0; part < 2; part++) {
        int sub = 2 * group + part, half = sub / 8, within = sub % 8;
        out.scale[part] = d * static_cast<float>(scales[sub]);
        const uint8_t* low = block + half * 64 + within % 4 * 16;
        const uint8_t* high = block + 128 + half * 32 + within % 2 * 16;
        for (int i = 0; i < 16; i++) {
            int value = (low[i] >> (within / 4 * 4) & 15) | (high[i] >> (within / 2 * 2) & 3) << 4;
            out.integers[part * 16 + i] = static_cast<uint8_t>(value - 32 + 128);
        }
    }
}

void unpack(int64_t layout, const uint8_t* row, int64_t group, Unpacked& out) {
    const uint8_t* block = row + group * GROUP / LAYOUT_SIZES[layout].values * LAYOUT_SIZES[layout].bytes;
    out.minimum = 0.0f;
    switch (layout) {
        case Q4_K: unpack_k(block, static_cast<int>(group % 8), false, out); return;
        case Q5_K: unpack_k(block, static_cast<int>(group % 8), true, out); return;
        case Q6_K: unpack_q6_k(block, static_cast<int>(group % 8), out); return;
        default: break;
    }
    out.scale[0] = packing::scale_at(block);
    switch (layout) {
        case Q5_0:
            nibbles(block + 6, out);
            fifth_bits(block + 2, out);
            for (uint8_t& value : out.integers) value = static_cast<uint8_t>(value - 16 + 128);
            break;
        case Q5_1:
            out.minimum = packing::scale_at(block + 2);
            nibbles(block + 8, out);
            fifth_bits(block + 4, out);
            break;
        default: break;
    }
}

void put_scale(uint8_t* at, int64_t row, bool wide, float value) {
    if (wide) {
        std::memcpy(at + 4 * row, &value, sizeof value);
    } else {
        uint16_t half = packing::float_to_half(value);  // exact: it was one
        std::memcpy(at + 2 * row, &half, sizeof half);
    }
}

void pack_group(const PanelSize& size, const Unpacked& group, int64_t row, uint8_t* out) {
    int64_t scale_bytes = PANEL_ROWS * (size.wide ? 4 : 2);
    put_scale(out, row, size.wide, group.scale[0]);
    if (size.halves) put_scale(out + scale_bytes, row, size.wide, group.scale[1]);
    uint8_t* minimum = out + scale_bytes * (size.halves ? 2 : 1);
    if (size.minimums) put_scale(minimum, row, size.wide, group.minimum);
    uint8_t* quants = minimum + (size.minimums ? scale_bytes : 0);
    for (int k = 0; k < GROUP; k++) {
        int step = k / 4;
        uint8_t* byte = quants + (size.nibbles ? step % 4 : step) * 64 + row * 4 + k % 4;
        *byte = static_cast<uint8_t>(size.nibbles && step >= 4 ? *byte | group.integers[k] << 4 : group.integers[k]);
    }
}

// Of a layout whose blocks are a panel's groups with the rows apart: 16-bit scale, 16-bit minimum, and integers in words
// of 4 bytes, one word a step. Words of signed integers are shifted to unsigned ones.
void pack_row(const PanelSize& size, const uint8_t* block, int64_t block_bytes, int64_t groups, int64_t row, uint8_t* out) {
    int64_t scale_bytes = size.minimums ? 4 : 2, words = (block_bytes - scale_bytes) / 4;
    uint32_t sign = size.nibbles ? 0u : 0x80808080u;
    for (int64_t g = 0; g < groups; g++, block += block_bytes, out += size.bytes) {
        for (int64_t part = 0; part < scale_bytes; part += 2)
            std::memcpy(out + part * PANEL_ROWS + 2 * row, block + part, 2);
        uint8_t* quants = out + scale_bytes * PANEL_ROWS + 4 * row;
        for (int64_t i = 0; i < words; i++) {
            uint32_t word;
            std::memcpy(&word, block + scale_bytes + 4 * i, sizeof word);
            word ^= sign;
            std::memcpy(quants + 4 * PANEL_ROWS * i, &word, sizeof word);
        }
    }
}

// A panel of floats: columns of up to PANEL_ROWS rows, from rows.
template <class Item>
void pack_columns(const uint8_t* source, int64_t rows, int64_t columns, uint8_t* out) {
    Item* to = reinterpret_cast<Item*>(out);
    for (int64_t k = 0; k < columns; k += 16) {  // a cache line or so of every row at a time
        int64_t stop = k + 16 < columns ? k + 16 : columns;
        for (int64_t row = 0; row < PANEL_ROWS; row++) {
            for (int64_t i = k; i < stop; i++) {
                Item item{};  // files put weights at any byte
                const uint8_t* at = source + (row * columns + i) * static_cast<int64_t>(sizeof item);
                if (row < rows) std::memcpy(&item, at, sizeof item);
                to[i * PANEL_ROWS + row] = item;
            }
        }
    }
}

void pack_float_panel(const PackTask& task, int64_t panel) {
    const Matrix& matrix = task.matrix;
    int64_t item = LAYOUT_SIZES[matrix.layout].bytes, row = panel * PANEL_ROWS;
    const uint8_t* source = matrix.data + row * matrix.columns * item;
    uint8_t* out = task.out + row * matrix.columns * item;
    int64_t rows = matrix.rows - row < PANEL_ROWS ? matrix.rows - row : PANEL_ROWS;
    if (item == 4)
        pack_columns<uint32_t>(source, rows, matrix.columns, out);
    else
        pack_columns<uint16_t>(source, rows, matrix.columns, out);
}

}  // namespace

// Unit: one panel. Rows that the matrix does not have are zeros.
void pack_units(const void* argument, int64_t begin, int64_t end) {
    const PackTask& task = *static_cast<const PackTask*>(argument);
    const Matrix& matrix = task.matrix;
    if (task.panel >= PANEL_F32) {
        for (int64_t panel = begin; panel < end; panel++) pack_float_panel(task, panel);
        return;
    }
    const PanelSize& size = PANEL_SIZES[task.panel - FIRST_PANEL];
    const LayoutSize layout = LAYOUT_SIZES[matrix.layout];
    int64_t groups = matrix.columns / GROUP, row_bytes = matrix.columns / layout.values * layout.bytes;
    for (int64_t panel = begin; panel < end; panel++) {
        uint8_t* out = task.out + panel * groups * size.bytes;
        if ((panel + 1) * PANEL_ROWS > matrix.rows) std::memset(out, 0, static_cast<size_t>(groups * size.bytes));
        for (int64_t row = 0; row < PANEL_ROWS && panel * PANEL_ROWS + row < matrix.rows; row++) {
            const uint8_t* source = matrix.data + (panel * PANEL_ROWS + row) * row_bytes;
            if (matrix.layout == Q4_0 || matrix.layout == Q4_1 || matrix.layout == Q8_0) {
                pack_row(size, source, layout.bytes, groups, row, out);
                continue;
            }
            for (int64_t g = 0; g < groups; g++) {
                Unpacked group;
                unpack(matrix.layout, source, g, group);
                pack_group(size, group, row, out + g * size.bytes);
            }
        }
    }
}

}  // namespace tgi
