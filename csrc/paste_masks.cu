// Where masks over boxes change in the image, column by column, on a CUDA device: a thread for each column of
// each mask. Each pixel is computed where it is needed.

#include <cstdint>

#include "kernels.h"
#include "paste_masks.h"

namespace zoofleet {

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

template <typename T>
__device__ void run(const PasteRuns<T>& k) {
    const zoofleet_paste_params& p = k.params;
    const int64_t thread = blockIdx.x * k.kThreads + threadIdx.x;
    if (thread >= p.masks * p.width) return;
    const int64_t mask = thread / p.width, x = thread % p.width;
    const Column column = column_of(p, k.masks, k.extents, mask, x);
    // A mask has one run more than changes, so that those before it take `mask` places more.
    int64_t* end = k.ends ? k.ends + mask + (thread > 0 ? k.changes[thread - 1] : 0) : nullptr;
    bool before = x > 0 && p.height > 0 && column_of(p, k.masks, k.extents, mask, x - 1)(p.height - 1);
    int64_t found = 0;
    for (int64_t y = 0; y < p.height; ++y) {
        const bool here = column(y);
        if (here != before) {
            if (end) end[found] = x * p.height + y;
            ++found;
        }
        before = here;
    }
    if (!end) {
        k.changes[thread] = found;
    } else if (x == p.width - 1) {
        end[found] = p.height * p.width;
    }
}

}  // namespace zoofleet

ZOOFLEET_KERNEL(PasteRuns, float)
