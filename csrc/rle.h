// COCO's compressed run lengths: what rle.cpp and paste_masks.cpp write.

#ifndef ZOOFLEET_RLE_H_
#define ZOOFLEET_RLE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "zoofleet_ops.h"

namespace zoofleet {

// Writes one mask. Pixels are counted column by column; `toggle` gets, in order, the positions at which the
// pixels change, beginning with 0 before the first.
class RunEncoder {
  public:
    void toggle(int64_t position) {
        put(position - last_);
        last_ = position;
    }
    std::vector<uint8_t> finish(int64_t pixels) {
        put(pixels - last_);
        return std::move(counts_);
    }
    // Whether the pixel before the next toggle is 1.
    bool inside() const { return runs_ % 2 == 1; }

  private:
    // From the fourth run on, what is stored is the difference to the run two before, in groups of 5 bits
    // with the lowest first; 32 says that more follow, and bit 4 of the last is the sign.
    void put(int64_t run) {
        int64_t number = runs_ > 2 ? run - before_[runs_ % 2] : run;
        before_[runs_ % 2] = run;
        ++runs_;
        bool more = true;
        while (more) {
            const int64_t group = number & 31;
            number >>= 5;
            more = number != (group & 16 ? -1 : 0);
            counts_.push_back(static_cast<uint8_t>(48 + group + (more ? 32 : 0)));
        }
    }

    std::vector<uint8_t> counts_;
    int64_t before_[2] = {0, 0};
    int64_t last_ = 0, runs_ = 0;
};

// Calls changed(i) for each i in [0, count) at which values[i] != values[i - 1]; values[-1] must be there.
template <typename Changed>
inline void visit_changes(const uint8_t* values, int64_t count, const Changed& changed) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        uint64_t here, before;
        std::memcpy(&here, values + i, 8);
        std::memcpy(&before, values + i - 1, 8);
        if (here == before) continue;
        for (int64_t k = i; k < i + 8; ++k) {
            if (values[k] != values[k - 1]) changed(k);
        }
    }
    for (; i < count; ++i) {
        if (values[i] != values[i - 1]) changed(i);
    }
}

// Fills offsets (encoded.size() + 1), and counts where `capacity` suffices for all of it.
inline int32_t store(const std::vector<std::vector<uint8_t>>& encoded, uint8_t* counts, int64_t capacity,
                     int64_t* offsets) {
    offsets[0] = 0;
    for (std::size_t i = 0; i < encoded.size(); ++i) {
        offsets[i + 1] = offsets[i] + static_cast<int64_t>(encoded[i].size());
    }
    if (offsets[encoded.size()] > capacity) return ZOOFLEET_OK;
    for (std::size_t i = 0; i < encoded.size(); ++i) {
        std::copy(encoded[i].begin(), encoded[i].end(), counts + offsets[i]);
    }
    return ZOOFLEET_OK;
}

}  // namespace zoofleet

#endif  // ZOOFLEET_RLE_H_
