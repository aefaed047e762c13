// What nms.cpp and nms.cu share: the exact test by which one box suppresses another.

#ifndef ZOOFLEET_IOU_H_
#define ZOOFLEET_IOU_H_

#include <cmath>

#ifdef __CUDACC__
#define ZOOFLEET_HOST_DEVICE __host__ __device__
#else
#define ZOOFLEET_HOST_DEVICE
#endif

namespace zoofleet {

template <typename T>
struct Box {
    T x1, y1, x2, y2;
};

template <typename T>
ZOOFLEET_HOST_DEVICE inline T area(const Box<T>& box) {
    return (box.x2 - box.x1) * (box.y2 - box.y1);
}

// A NaN coordinate makes the area NaN, so the order of the operands of these comparisons does not matter.
template <typename T>
ZOOFLEET_HOST_DEVICE inline T intersection(const Box<T>& a, const Box<T>& b) {
    const T x1 = a.x1 < b.x1 ? b.x1 : a.x1;
    const T y1 = a.y1 < b.y1 ? b.y1 : a.y1;
    const T x2 = b.x2 < a.x2 ? b.x2 : a.x2;
    const T y2 = b.y2 < a.y2 ? b.y2 : a.y2;
    const T width = x2 - x1;
    const T height = y2 - y1;
    return (width > T(0) ? width : T(0)) * (height > T(0) ? height : T(0));
}

// The largest T that is not above `threshold`: `iou > threshold` in double is `iou > rounded` in T.
template <typename T>
T round_down(double threshold) {
    T rounded = static_cast<T>(threshold);
    if (static_cast<double>(rounded) > threshold) rounded = std::nextafter(rounded, T(0));
    return rounded;
}

}  // namespace zoofleet

#endif  // ZOOFLEET_IOU_H_
