// Stored weights into the panels that integer.h multiplies.
#pragma once

#include "kernels.h"

namespace tgi {

struct PackTask {
    Matrix matrix;   // in a block layout
    int64_t panel;   // PanelKind
    uint8_t* out;    // panels x groups x PANEL_SIZES[..].bytes
};

// Unit: one panel.
void pack_units(const void* task, int64_t begin, int64_t end);

}  // namespace tgi
