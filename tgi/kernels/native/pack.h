// Stored weights into the panels that integer.h and panel_floats.h multiply.
#pragma once

#include "kernels.h"

namespace tgi {

struct PackTask {
    Matrix matrix;   // as stored
    int64_t panel;   // PanelKind
    uint8_t* out;    // panels x groups (or columns of floats) x PANEL_SIZES[..].bytes
};

// Unit: one panel.
void pack_units(const void* task, int64_t begin, int64_t end);

}  // namespace tgi
