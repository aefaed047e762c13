// RoIAlign on the CPU.
//
// Bilinear weights and the grid of samples are both products of a row part and a column part. Each bin row is
// therefore first a weighted sum of feature-map rows, a straight vector loop over the width of the box, and
// each bin then a weighted sum over that line. The gradient runs the same way backwards.

#include "roi_align.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kBlock = 1024;  // boxes that are pooled from one channel while it is in the cache

template <typename T>
struct Tap {
    int32_t pixel;
    T weight;
};

// For each bin along one axis, the pixels that its samples read: taps[ends[i - 1]] .. taps[ends[i]].
template <typename T>
struct Taps {
    std::vector<Tap<T>> taps;
    std::vector<int64_t> ends;
    int64_t first = 0, width = 0;  // the pixels read by any bin: [first, first + width)

    void add(std::size_t bin_begin, int64_t pixel, T weight) {
        // Neighbouring samples mostly read the same pixels, the last two.
        for (std::size_t back = 1; back <= 2 && taps.size() >= bin_begin + back; ++back) {
            Tap<T>& tap = taps[taps.size() - back];
            if (tap.pixel == pixel) {
                tap.weight += weight;
                return;
            }
        }
        taps.push_back({static_cast<int32_t>(pixel), weight});
    }

    void fill(const Axis<T>& axis, int64_t bins) {
        taps.clear();
        ends.clear();
        int64_t low = axis.size, high = -1;
        for (int64_t bin = 0; bin < bins; ++bin) {
            const std::size_t bin_begin = taps.size();
            const SampleRange range = samples_inside(axis, bin);
            for (int64_t i = range.begin; i < range.end; ++i) {
                Sample<T> sample;
                if (!locate(axis, bin, i, &sample)) continue;
                add(bin_begin, sample.low, sample.low_weight);
                add(bin_begin, sample.high, sample.high_weight);
                low = std::min(low, sample.low);
                high = std::max(high, sample.high);
            }
            ends.push_back(static_cast<int64_t>(taps.size()));
        }
        first = std::min(low, high + 1);
        width = high + 1 - first;
    }
};

// One box: what it reads, and in how many samples a bin.
template <typename T>
struct Region {
    Taps<T> rows, columns;
    T samples = 1;
    int64_t image = 0;

    void fill(const zoofleet_roi_align_params& p, const T* roi) {
        const Axis<T> y = make_axis(roi[2], roi[4], p.pooled_height, p.height, p);
        const Axis<T> x = make_axis(roi[1], roi[3], p.pooled_width, p.width, p);
        rows.fill(y, p.pooled_height);
        columns.fill(x, p.pooled_width);
        samples = std::max(static_cast<T>(y.grid) * static_cast<T>(x.grid), T(1));
        image = batch_index(roi[0], p.batch);
    }
};

template <typename T>
ZOOFLEET_INLINE void pool_inline(const zoofleet_roi_align_params& p, const Region<T>& region, const T* plane,
                                 T* __restrict line, T* output) {
    const int64_t first = region.columns.first, width = region.columns.width;
    for (int64_t bin_y = 0, tap = 0; bin_y < p.pooled_height; ++bin_y) {
        std::fill(line, line + width, T(0));
        for (; tap < region.rows.ends[bin_y]; ++tap) {
            const T weight = region.rows.taps[tap].weight;
            const T* row = plane + region.rows.taps[tap].pixel * p.width + first;
            for (int64_t x = 0; x < width; ++x) line[x] += weight * row[x];
        }
        for (int64_t bin_x = 0, at = 0; bin_x < p.pooled_width; ++bin_x) {
            T sum = 0;
            for (; at < region.columns.ends[bin_x]; ++at) {
                sum += region.columns.taps[at].weight * line[region.columns.taps[at].pixel - first];
            }
            output[bin_y * p.pooled_width + bin_x] = sum / region.samples;
        }
    }
}

template <typename T>
ZOOFLEET_INLINE void spread_inline(const zoofleet_roi_align_params& p, const Region<T>& region, const T* grad,
                                   T* __restrict line, T* plane) {
    const int64_t first = region.columns.first, width = region.columns.width;
    for (int64_t bin_y = 0, tap = 0; bin_y < p.pooled_height; ++bin_y) {
        std::fill(line, line + width, T(0));
        for (int64_t bin_x = 0, at = 0; bin_x < p.pooled_width; ++bin_x) {
            const T share = grad[bin_y * p.pooled_width + bin_x] / region.samples;
            for (; at < region.columns.ends[bin_x]; ++at) {
                line[region.columns.taps[at].pixel - first] += region.columns.taps[at].weight * share;
            }
        }
        for (; tap < region.rows.ends[bin_y]; ++tap) {
            const T weight = region.rows.taps[tap].weight;
            T* row = plane + region.rows.taps[tap].pixel * p.width + first;
            for (int64_t x = 0; x < width; ++x) row[x] += weight * line[x];
        }
    }
}

ZOOFLEET_CLONES void pool(const zoofleet_roi_align_params& p, const Region<float>& region, const float* plane,
                          float* line, float* output) {
    pool_inline(p, region, plane, line, output);
}

ZOOFLEET_CLONES void pool(const zoofleet_roi_align_params& p, const Region<double>& region,
                          const double* plane, double* line, double* output) {
    pool_inline(p, region, plane, line, output);
}

ZOOFLEET_CLONES void spread(const zoofleet_roi_align_params& p, const Region<float>& region,
                            const float* grad, float* line, float* plane) {
    spread_inline(p, region, grad, line, plane);
}

ZOOFLEET_CLONES void spread(const zoofleet_roi_align_params& p, const Region<double>& region,
                            const double* grad, double* line, double* plane) {
    spread_inline(p, region, grad, line, plane);
}

template <typename T>
bool batch_indices_valid(const zoofleet_roi_align_params& p, const T* rois) {
    for (int64_t k = 0; k < p.rois; ++k) {
        if (batch_index(rois[5 * k], p.batch) < 0) return false;
    }
    return true;
}

template <typename T>
std::vector<Region<T>> make_regions(const zoofleet_roi_align_params& p, const T* rois, int64_t first,
                                    int64_t threads) {
    std::vector<Region<T>> regions(static_cast<std::size_t>(std::min(kBlock, p.rois - first)));
    parallel_for(threads, static_cast<int64_t>(regions.size()), [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) regions[k].fill(p, rois + 5 * (first + k));
    });
    return regions;
}

template <typename T>
int32_t forward(const zoofleet_roi_align_params& p, const T* input, const T* rois, int64_t threads,
                T* output) {
    if (!batch_indices_valid(p, rois)) return ZOOFLEET_INVALID_BATCH_INDEX;
    const int64_t bins = p.pooled_height * p.pooled_width;
    for (int64_t first = 0; first < p.rois; first += kBlock) {
        const std::vector<Region<T>> regions = make_regions(p, rois, first, threads);
        const int64_t size = static_cast<int64_t>(regions.size());
        parallel_for(threads, p.channels * size, [&](int64_t begin, int64_t end) {
            std::vector<T> line(static_cast<std::size_t>(p.width));
            for (int64_t i = begin; i < end; ++i) {
                const int64_t channel = i / size, k = i % size;
                const T* plane = input + (regions[k].image * p.channels + channel) * p.height * p.width;
                pool(p, regions[k], plane, line.data(), output + ((first + k) * p.channels + channel) * bins);
            }
        });
    }
    return ZOOFLEET_OK;
}

// Each thread owns channels, so no two add to one element.
template <typename T>
int32_t backward(const zoofleet_roi_align_params& p, const T* grad, const T* rois, int64_t threads,
                 T* grad_input) {
    if (!batch_indices_valid(p, rois)) return ZOOFLEET_INVALID_BATCH_INDEX;
    const int64_t bins = p.pooled_height * p.pooled_width;
    for (int64_t first = 0; first < p.rois; first += kBlock) {
        const std::vector<Region<T>> regions = make_regions(p, rois, first, threads);
        const int64_t size = static_cast<int64_t>(regions.size());
        parallel_for(threads, p.channels, [&](int64_t begin, int64_t end) {
            std::vector<T> line(static_cast<std::size_t>(p.width));
            for (int64_t channel = begin; channel < end; ++channel) {
                for (int64_t k = 0; k < size; ++k) {
                    T* plane = grad_input + (regions[k].image * p.channels + channel) * p.height * p.width;
                    spread(p, regions[k], grad + ((first + k) * p.channels + channel) * bins, line.data(),
                           plane);
                }
            }
        });
    }
    return ZOOFLEET_OK;
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_roi_align(const zoofleet_roi_align_params* params, const void* input, const void* rois,
                           int32_t threads, void* output) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        if (params->dtype == ZOOFLEET_FLOAT32) {
            return zoofleet::forward(*params, static_cast<const float*>(input),
                                     static_cast<const float*>(rois), threads, static_cast<float*>(output));
        }
        return zoofleet::forward(*params, static_cast<const double*>(input), static_cast<const double*>(rois),
                                 threads, static_cast<double*>(output));
    });
}

int32_t zoofleet_roi_align_backward(const zoofleet_roi_align_params* params, const void* grad_output,
                                    const void* rois, int32_t threads, void* grad_input) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        if (params->dtype == ZOOFLEET_FLOAT32) {
            return zoofleet::backward(*params, static_cast<const float*>(grad_output),
                                      static_cast<const float*>(rois), threads,
                                      static_cast<float*>(grad_input));
        }
        return zoofleet::backward(*params, static_cast<const double*>(grad_output),
                                  static_cast<const double*>(rois), threads,
                                  static_cast<double*>(grad_input));
    });
}
