// Non-maximum suppression on the CPU.
//
// Candidates come in blocks of falling score. Each candidate of a block is first held against all boxes kept
// so far, which threads do side by side, and the survivors then against those kept within the block, in
// order. Kept boxes stand in one array for each coordinate, so that the inner loop is a straight run of
// vector instructions, without a division: that is left to the rare pairs which may be above the threshold.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "iou.h"
#include "parallel.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kBlock = 1024;     // candidates held against the kept boxes at once
constexpr int64_t kTile = 2048;      // kept boxes that stay in the first-level cache meanwhile
constexpr int64_t kChunk = 256;      // pairs between two looks at whether the candidate is gone
constexpr int64_t kPairs = 1000000;  // pairs in a block that are worth another thread

template <typename T>
struct Kept {
    std::vector<T> x1, y1, x2, y2, areas;

    void add(const Box<T>& box) {
        x1.push_back(box.x1);
        y1.push_back(box.y1);
        x2.push_back(box.x2);
        y2.push_back(box.y2);
        areas.push_back(area(box));
    }
    int64_t size() const { return static_cast<int64_t>(x1.size()); }
};

// Whether IoU > threshold, for threshold >= 0, between `box` and any of the kept boxes [begin, end).
//
// inter >= fl(threshold * joint) follows from fl(inter / joint) > threshold, as rounding is monotonic and no
// box with a joint area below zero is above a threshold: chunks in which it holds for no pair need no
// division.
template <typename T>
ZOOFLEET_INLINE bool suppressed_inline(const Kept<T>& kept, int64_t begin, int64_t end, const Box<T> box,
                                       T threshold) {
    const T *x1 = kept.x1.data(), *y1 = kept.y1.data(), *x2 = kept.x2.data(), *y2 = kept.y2.data();
    const T* areas = kept.areas.data();
    const T box_area = area(box);
    for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
        const int64_t stop = std::min(chunk + kChunk, end);
        int32_t near = 0;
        for (int64_t i = chunk; i < stop; ++i) {
            const T inter = intersection(Box<T>{x1[i], y1[i], x2[i], y2[i]}, box);
            near |= (inter > T(0)) & (inter >= threshold * (areas[i] + box_area - inter));
        }
        if (!near) continue;
        int32_t above = 0;
        for (int64_t i = chunk; i < stop; ++i) {
            const T inter = intersection(Box<T>{x1[i], y1[i], x2[i], y2[i]}, box);
            above |= inter / (areas[i] + box_area - inter) > threshold;
        }
        if (above) return true;
    }
    return false;
}

ZOOFLEET_CLONES bool suppressed(const Kept<float>& kept, int64_t begin, int64_t end, Box<float> box,
                                float threshold) {
    return suppressed_inline(kept, begin, end, box, threshold);
}

ZOOFLEET_CLONES bool suppressed(const Kept<double>& kept, int64_t begin, int64_t end, Box<double> box,
                                double threshold) {
    return suppressed_inline(kept, begin, end, box, threshold);
}

// One greedy pass over the boxes order[ranks[i]]; stays[ranks[i]] tells which remain.
template <typename T>
void nms_group(const Box<T>* boxes, const int64_t* order, const int64_t* ranks, int64_t count, T threshold,
               int64_t threads, uint8_t* stays) {
    Kept<T> kept;
    for (int64_t block = 0; block < count; block += kBlock) {
        const int64_t end = std::min(block + kBlock, count);
        const int64_t before = kept.size();
        const auto hold_against_kept = [&](int64_t from, int64_t to) {
            for (int64_t tile = 0; tile < before; tile += kTile) {
                for (int64_t i = block + from; i < block + to; ++i) {
                    uint8_t& stay = stays[ranks[i]];
                    stay = stay && !suppressed(kept, tile, std::min(tile + kTile, before),
                                               boxes[order[ranks[i]]], threshold);
                }
            }
        };
        const int64_t shares = std::min(threads, 1 + before * (end - block) / kPairs);
        parallel_for(shares, end - block, hold_against_kept);
        for (int64_t i = block; i < end; ++i) {
            const Box<T>& box = boxes[order[ranks[i]]];
            uint8_t& stay = stays[ranks[i]];
            stay = stay && !suppressed(kept, before, kept.size(), box, threshold);
            if (stay) kept.add(box);
        }
    }
}

template <typename T>
int32_t nms(const void* boxes, const int64_t* order, const int64_t* labels, int64_t count,
            double iou_threshold, int64_t threads, int64_t* keep, int64_t* kept) {
    const T threshold = round_down<T>(iou_threshold);
    std::vector<uint8_t> stays(static_cast<std::size_t>(count), 1);
    std::vector<int64_t> ranks(static_cast<std::size_t>(count));
    std::iota(ranks.begin(), ranks.end(), int64_t{0});
    if (labels) {
        std::stable_sort(ranks.begin(), ranks.end(),
                         [&](int64_t a, int64_t b) { return labels[order[a]] < labels[order[b]]; });
    }
    for (int64_t begin = 0, end; begin < count; begin = end) {
        const int64_t* first = ranks.data() + begin;
        end = count;
        if (labels) {
            const int64_t label = labels[order[*first]];
            end = std::find_if(first, first + (count - begin),
                               [&](int64_t r) { return labels[order[r]] != label; }) -
                  ranks.data();
        }
        nms_group(static_cast<const Box<T>*>(boxes), order, first, end - begin, threshold, threads,
                  stays.data());
    }
    *kept = 0;
    for (int64_t rank = 0; rank < count; ++rank) {
        if (stays[rank]) keep[(*kept)++] = order[rank];
    }
    return ZOOFLEET_OK;
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_ops_abi(void) { return ZOOFLEET_OPS_ABI; }

int32_t zoofleet_nms(const void* boxes, const int64_t* order, const int64_t* labels, int64_t count,
                     double iou_threshold, int32_t dtype, int32_t threads, int64_t* keep, int64_t* kept) {
    if (count < 0 || !(iou_threshold >= 0)) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        switch (dtype) {
            case ZOOFLEET_FLOAT32:
                return zoofleet::nms<float>(boxes, order, labels, count, iou_threshold, threads, keep, kept);
            case ZOOFLEET_FLOAT64:
                return zoofleet::nms<double>(boxes, order, labels, count, iou_threshold, threads, keep, kept);
            default:
                return ZOOFLEET_INVALID_ARGUMENT;
        }
    });
}
