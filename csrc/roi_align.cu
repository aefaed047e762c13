// RoIAlign on a CUDA device: a thread for each bin of each channel of each box.

#include <cstdint>

#include "kernels.h"
#include "roi_align.h"

namespace zoofleet {

// Calls visit(offset in the plane, weight) for each pixel that the bin reads.
template <typename T, typename Visit>
__device__ void visit_bin(const zoofleet_roi_align_params& p, const T* roi, int64_t bin_y, int64_t bin_x,
                          const Visit& visit) {
    const Axis<T> y = make_axis(roi[2], roi[4], p.pooled_height, p.height, p);
    const Axis<T> x = make_axis(roi[1], roi[3], p.pooled_width, p.width, p);
    const T grid = static_cast<T>(y.grid) * static_cast<T>(x.grid);
    const T samples = grid < T(1) ? T(1) : grid;
    const SampleRange rows = samples_inside(y, bin_y);
    const SampleRange columns = samples_inside(x, bin_x);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
        Sample<T> row;
        if (!locate(y, bin_y, i, &row)) continue;
        for (int64_t j = columns.begin; j < columns.end; ++j) {
            Sample<T> column;
            if (!locate(x, bin_x, j, &column)) continue;
            visit(row.low * p.width + column.low, row.low_weight * column.low_weight / samples);
            visit(row.low * p.width + column.high, row.low_weight * column.high_weight / samples);
            visit(row.high * p.width + column.low, row.high_weight * column.low_weight / samples);
            visit(row.high * p.width + column.high, row.high_weight * column.high_weight / samples);
        }
    }
}

// The bin of one element of the output (rois, channels, pooled_height, pooled_width).
struct Bin {
    int64_t x, y, channel, roi;
};

__device__ Bin bin_of(int64_t element, const zoofleet_roi_align_params& p) {
    const int64_t row = element / p.pooled_width;
    const int64_t plane = row / p.pooled_height;
    return Bin{element % p.pooled_width, row % p.pooled_height, plane % p.channels, plane / p.channels};
}

template <typename T>
__device__ void run(const RoiAlignPool<T>& k) {
    const zoofleet_roi_align_params& p = k.params;
    const int64_t element = blockIdx.x * k.kThreads + threadIdx.x;
    if (element >= k.elements) return;
    const Bin bin = bin_of(element, p);
    const T* roi = k.rois + 5 * bin.roi;
    const int64_t image = batch_index(roi[0], p.batch);
    if (image < 0) {
        k.output[element] = static_cast<T>(NAN);
        return;
    }
    const T* plane = k.input + (image * p.channels + bin.channel) * p.height * p.width;
    T sum = 0;
    visit_bin(p, roi, bin.y, bin.x, [&](int64_t offset, T weight) { sum += weight * plane[offset]; });
    k.output[element] = sum;
}

template <typename T>
__device__ void run(const RoiAlignSpread<T>& k) {
    const zoofleet_roi_align_params& p = k.params;
    const int64_t element = blockIdx.x * k.kThreads + threadIdx.x;
    if (element >= k.elements) return;
    const Bin bin = bin_of(element, p);
    const T* roi = k.rois + 5 * bin.roi;
    const int64_t image = batch_index(roi[0], p.batch);
    if (image < 0) return;
    T* plane = k.grad_input + (image * p.channels + bin.channel) * p.height * p.width;
    const T share = k.grad[element];
    visit_bin(p, roi, bin.y, bin.x,
              [&](int64_t offset, T weight) { atomicAdd(plane + offset, weight * share); });
}

}  // namespace zoofleet

ZOOFLEET_KERNEL(RoiAlignPool, float)
ZOOFLEET_KERNEL(RoiAlignPool, double)
ZOOFLEET_KERNEL(RoiAlignSpread, float)
ZOOFLEET_KERNEL(RoiAlignSpread, double)
