// What NVRTC, which has no standard library, gets for each standard header that the sources include.

#ifndef ZOOFLEET_NVRTC_STD_H_
#define ZOOFLEET_NVRTC_STD_H_

typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

#define INT32_MAX 2147483647
#define NAN __int_as_float(0x7fffffff)

// NVRTC has CUDA's mathematics in the global namespace.
namespace std {
using ::ceil;
using ::fabs;
using ::floor;
using ::isfinite;
using ::nextafter;
}  // namespace std

#endif  // ZOOFLEET_NVRTC_STD_H_
