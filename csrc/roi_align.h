// What roi_align.cpp and roi_align.cu share: where the samples of a box lie, and what each reads.

#ifndef ZOOFLEET_ROI_ALIGN_H_
#define ZOOFLEET_ROI_ALIGN_H_

#include <cmath>
#include <cstdint>

#include "iou.h"
#include "zoofleet_ops.h"

namespace zoofleet {

// The samples of one box along one axis: `bins` bins with `grid` evenly spaced samples in each.
template <typename T>
struct Axis {
    T start, bin;
    int64_t grid;
    int64_t size;  // pixels of the feature map along the axis

    ZOOFLEET_HOST_DEVICE T position(int64_t index, int64_t sample) const {
        return start + static_cast<T>(index) * bin +
               (static_cast<T>(sample) + T(0.5)) * bin / static_cast<T>(grid);
    }
};

template <typename T>
ZOOFLEET_HOST_DEVICE inline Axis<T> make_axis(T low, T high, int64_t bins, int64_t size,
                                              const zoofleet_roi_align_params& params) {
    const T scale = static_cast<T>(params.spatial_scale);
    const T offset = params.aligned ? T(0.5) : T(0);
    const T start = low * scale - offset;
    T extent = high * scale - offset - start;
    if (!params.aligned && extent < T(1)) extent = T(1);
    int64_t grid = params.sampling_ratio;
    if (grid <= 0) {
        // One sample per pixel. The bound is far beyond any feature map and keeps the number an integer.
        const T wanted = std::ceil(extent / static_cast<T>(bins));
        grid = wanted >= T(1) ? static_cast<int64_t>(wanted < T(1 << 30) ? wanted : T(1 << 30)) : 0;
    }
    if (!std::isfinite(start) || !std::isfinite(extent)) grid = 0;
    return Axis<T>{start, extent / static_cast<T>(bins), grid, size};
}

// The samples [begin, end) of a bin that may lie within a pixel of the feature map; outside it, a box of any
// size costs nothing. The margin covers the rounding of positions in T.
struct SampleRange {
    int64_t begin, end;
};

template <typename T>
ZOOFLEET_HOST_DEVICE inline SampleRange samples_inside(const Axis<T>& axis, int64_t index) {
    const double step = static_cast<double>(axis.bin) / static_cast<double>(axis.grid);
    if (axis.grid < 64 || step == 0.0) return SampleRange{0, axis.grid};
    const double offset = static_cast<double>(axis.start) + static_cast<double>(index) * axis.bin;
    const double a = (-1.0 - offset) / step;
    const double b = (static_cast<double>(axis.size) - offset) / step;
    const double margin = 2.0 + 1e-6 * (std::fabs(a) + std::fabs(b));
    const double begin = (a < b ? a : b) - margin;
    const double end = (a < b ? b : a) + margin;
    const double grid = static_cast<double>(axis.grid);
    return SampleRange{begin > 0 ? static_cast<int64_t>(begin < grid ? begin : grid) : 0,
                       end < grid ? static_cast<int64_t>(end > 0 ? end : 0) : axis.grid};
}

// The two pixels between which a sample lies, with their weights.
template <typename T>
struct Sample {
    int64_t low, high;
    T low_weight, high_weight;
};

// False where the sample lies farther than one pixel outside.
template <typename T>
ZOOFLEET_HOST_DEVICE inline bool locate(const Axis<T>& axis, int64_t index, int64_t sample, Sample<T>* out) {
    T position = axis.position(index, sample);
    if (axis.size <= 0 || !(position >= T(-1) && position <= static_cast<T>(axis.size))) return false;
    if (position < T(0)) position = T(0);
    out->low = static_cast<int64_t>(position);
    out->high = out->low + 1;
    if (out->low >= axis.size - 1) {
        out->low = out->high = axis.size - 1;
        position = static_cast<T>(out->low);
    }
    out->high_weight = position - static_cast<T>(out->low);
    out->low_weight = T(1) - out->high_weight;
    return true;
}

// Index of the image of a box, or -1.
template <typename T>
ZOOFLEET_HOST_DEVICE inline int64_t batch_index(T value, int64_t batch) {
    return value >= T(0) && value < static_cast<T>(batch) ? static_cast<int64_t>(value) : -1;
}

inline bool valid(const zoofleet_roi_align_params& p) {
    const int64_t side = INT32_MAX;
    return p.batch >= 0 && p.channels >= 0 && p.height >= 0 && p.height <= side && p.width >= 0 &&
           p.width <= side && p.rois >= 0 && p.pooled_height > 0 && p.pooled_width > 0 &&
           (p.dtype == ZOOFLEET_FLOAT32 || p.dtype == ZOOFLEET_FLOAT64);
}

}  // namespace zoofleet

#endif  // ZOOFLEET_ROI_ALIGN_H_
