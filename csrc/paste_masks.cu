// Where masks over boxes change in the image, column by column, on a CUDA device: a thread for each column of
// each mask. Each pixel is computed where it is needed.

#include <cstdint>

#include "cuda_status.h"
#include "paste_masks.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kThreads = 256;

// One column of a mask in the image; called with a row, it says whether the pixel is above the threshold.
struct Column {
    const float* mask;
    Stretch down;
    Between across;
    float threshold;
    bool inside;

    __device__ float sample(int64_t row, int64_t column) const {
        const int64_t side = down.side;
        if (row < 1 || row > side || column < 1 || column > side) return 0.0f;
        return mask[(row - 1) * side + column - 1];
    }
    __device__ bool operator()(int64_t y) const {
        if (!inside || y < down.begin || y >= down.end) return false;
        const Between at = locate(down, y);
        const auto line = [&](int64_t column) {
            return mix(at.low_weight, sample(at.low, column), at.high_weight, sample(at.low + 1, column));
        };
        return mix(across.low_weight, line(across.low), across.high_weight, line(across.low + 1)) > threshold;
    }
};

__device__ Column column_of(const zoofleet_paste_params& p, const float* masks, const int64_t* extents,
                            int64_t mask, int64_t x) {
    const int64_t* extent = extents + 4 * mask;
    const Stretch across = make_stretch(extent[0], extent[2], p.width, p.side);
    const Stretch down = make_stretch(extent[1], extent[3], p.height, p.side);
    const bool inside = x >= across.begin && x < across.end;
    return Column{masks + mask * p.side * p.side, down, inside ? locate(across, x) : Between{0, 0.0f, 0.0f},
                  static_cast<float>(p.threshold), inside};
}

// As zoofleet_ops.h has it for changes and ends.
__global__ void runs(zoofleet_paste_params p, const float* masks, const int64_t* extents, int64_t* changes,
                     int64_t* ends) {
    const int64_t thread = blockIdx.x * kThreads + threadIdx.x;
    if (thread >= p.masks * p.width) return;
    const int64_t mask = thread / p.width, x = thread % p.width;
    const Column column = column_of(p, masks, extents, mask, x);
    // A mask has one run more than changes, so that those before it take `mask` places more.
    int64_t* end = ends ? ends + mask + (thread > 0 ? changes[thread - 1] : 0) : nullptr;
    bool before = x > 0 && p.height > 0 && column_of(p, masks, extents, mask, x - 1)(p.height - 1);
    int64_t found = 0;
    for (int64_t y = 0; y < p.height; ++y) {
        const bool here = column(y);
        if (here != before) {
            if (ends) end[found] = x * p.height + y;
            ++found;
        }
        before = here;
    }
    if (!ends) {
        changes[thread] = found;
    } else if (x == p.width - 1) {
        end[found] = p.height * p.width;
    }
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_paste_masks_runs_cuda(const zoofleet_paste_params* params, const float* masks,
                                       const int64_t* extents, int64_t* changes, int64_t* ends,
                                       void* stream) {
    using zoofleet::kThreads;
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const int64_t columns = params->masks * params->width;
    if (columns == 0) return ZOOFLEET_OK;
    zoofleet::runs<<<(columns + kThreads - 1) / kThreads, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        *params, masks, extents, changes, ends);
    return zoofleet::launch_status();
}
