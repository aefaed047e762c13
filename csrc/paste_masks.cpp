// Masks over boxes to run lengths in the image, on the CPU.
//
// COCO counts pixels column by column. A mask is therefore stretched down first, into one line of floats for
// each of its own columns, and a column of the image is then a weighted sum of two such lines, compared with
// the threshold. Only pixels of the box are looked at, and no more than one column of them is ever kept.

#include "paste_masks.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "parallel.h"
#include "rle.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

ZOOFLEET_CLONES void above(const float* __restrict low, const float* __restrict high, float low_weight,
                           float high_weight, float threshold, int64_t count, uint8_t* __restrict out) {
    for (int64_t i = 0; i < count; ++i) out[i] = mix(low_weight, low[i], high_weight, high[i]) > threshold;
}

class Paster {
  public:
    explicit Paster(const zoofleet_paste_params& params) : p_(params) {}

    std::vector<uint8_t> operator()(const float* mask, const int64_t* extent) {
        const Stretch across = make_stretch(extent[0], extent[2], p_.width, p_.side);
        const Stretch down = make_stretch(extent[1], extent[3], p_.height, p_.side);
        if (down.begin < down.end) {
            stretch_down(mask, down);
            for (int64_t x = across.begin; x < across.end; ++x) column(x, locate(across, x), down);
            if (encoder_.inside() && across.end < p_.width) encoder_.toggle(across.end * p_.height);
        }
        return std::exchange(encoder_, RunEncoder()).finish(p_.height * p_.width);
    }

  private:
    // lines_ (side + 3, rows): the mask's columns between zeros, stretched over the rows of the box.
    void stretch_down(const float* mask, const Stretch& down) {
        const int64_t rows = down.end - down.begin, side = p_.side;
        lines_.assign(static_cast<std::size_t>((side + 3) * rows), 0.0f);
        bits_.assign(static_cast<std::size_t>(rows + 1), 0);
        zeros_.assign(static_cast<std::size_t>(side), 0.0f);
        const auto row_of = [&](int64_t sample) {
            return sample >= 1 && sample <= side ? mask + (sample - 1) * side : zeros_.data();
        };
        for (int64_t y = 0; y < rows; ++y) {
            const Between between = locate(down, down.begin + y);
            const float *low = row_of(between.low), *high = row_of(between.low + 1);
            for (int64_t x = 0; x < side; ++x) {
                lines_[(x + 1) * rows + y] = mix(between.low_weight, low[x], between.high_weight, high[x]);
            }
        }
    }

    void column(int64_t x, const Between& between, const Stretch& down) {
        const int64_t rows = down.end - down.begin, top = x * p_.height;
        if (encoder_.inside() && down.begin > 0) encoder_.toggle(top);
        uint8_t* bits = bits_.data() + 1;
        bits[-1] = encoder_.inside();
        const float* low = lines_.data() + between.low * rows;
        above(low, low + rows, between.low_weight, between.high_weight, static_cast<float>(p_.threshold),
              rows, bits);
        visit_changes(bits, rows, [&](int64_t y) { encoder_.toggle(top + down.begin + y); });
        if (encoder_.inside() && down.end < p_.height) encoder_.toggle(top + down.end);
    }

    const zoofleet_paste_params& p_;
    RunEncoder encoder_;
    std::vector<float> lines_, zeros_;
    std::vector<uint8_t> bits_;
};

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_paste_masks_to_rle(const zoofleet_paste_params* params, const float* masks,
                                    const int64_t* extents, int32_t threads, uint8_t* counts,
                                    int64_t capacity, int64_t* offsets) {
    if (!zoofleet::valid(*params) || capacity < 0) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        std::vector<std::vector<uint8_t>> encoded(static_cast<std::size_t>(params->masks));
        zoofleet::parallel_for(threads, params->masks, [&](int64_t begin, int64_t end) {
            zoofleet::Paster paste(*params);
            for (int64_t i = begin; i < end; ++i) {
                encoded[i] = paste(masks + i * params->side * params->side, extents + 4 * i);
            }
        });
        return zoofleet::store(encoded, counts, capacity, offsets);
    });
}
