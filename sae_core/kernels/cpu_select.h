// The running selection of the k largest.
//
// A *key* is an integer that sorts as its value does, with NaN above everything (as torch.topk has it), so that
// selection is exact integer comparison, never a tolerance.

template <typename T> inline typename Traits<T>::Key key_of(T value) {
  using Key = typename Traits<T>::Key;
  constexpr Key highest = std::numeric_limits<Key>::max();
  if (value != value) return highest;
  Key bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits < 0 ? bits ^ highest : bits;
}

template <typename T> inline T value_of(typename Traits<T>::Key key) {
  using Key = typename Traits<T>::Key;
  constexpr Key highest = std::numeric_limits<Key>::max();
  if (key == highest) return std::numeric_limits<T>::quiet_NaN();
  Key bits = key < 0 ? key ^ highest : key;
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Bit i is set where a[i] <= b[i] does not hold: NaN on either side counts as above.
template <typename T> inline uint32_t above(typename Traits<T>::Vec a, typename Traits<T>::Vec b) {
#if LEVEL == 2
  if constexpr (sizeof(T) == 4) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
  else return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ);
#elif LEVEL == 1
  if constexpr (sizeof(T) == 4) return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLE_UQ));
  else return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_NLE_UQ));
#else
  uint32_t mask = 0;
  for (int i = 0; i < int(VECTOR_BYTES / sizeof(T)); i++) mask |= uint32_t(!(a[i] <= b[i])) << i;
  return mask;
#endif
}

// Lane by lane the larger of `value` and `top`; a NaN in `value` is passed over.
template <typename T>
inline typename Traits<T>::Vec larger(typename Traits<T>::Vec value, typename Traits<T>::Vec top) {
#if LEVEL == 2
  if constexpr (sizeof(T) == 4) return (typename Traits<T>::Vec)_mm512_max_ps((__m512)value, (__m512)top);
  else return (typename Traits<T>::Vec)_mm512_max_pd((__m512d)value, (__m512d)top);
#elif LEVEL == 1
  if constexpr (sizeof(T) == 4) return (typename Traits<T>::Vec)_mm256_max_ps((__m256)value, (__m256)top);
  else return (typename Traits<T>::Vec)_mm256_max_pd((__m256d)value, (__m256d)top);
#else
  return value > top ? value : top;
#endif
}

// Lane by lane |value|.
template <typename T> inline typename Traits<T>::Vec size_of(typename Traits<T>::Vec value) {
#if LEVEL == 2
  if constexpr (sizeof(T) == 4) return (typename Traits<T>::Vec)_mm512_abs_ps((__m512)value);
  else return (typename Traits<T>::Vec)_mm512_abs_pd((__m512d)value);
#else
  return value < 0 ? -value : value;
#endif
}

// The running selection of one token: at most `capacity` candidates, all that can still be among the k largest.
template <typename T> struct Selection {
  using Key = typename Traits<T>::Key;
  Key *keys;
  int32_t *latents;
  Key floor; // what an offer must exceed: no candidate is below it
  int count;

  static int count_above(const Key *keys, int count, Key bound) {
    int above = 0;
    for (int i = 0; i < count; i++) above += keys[i] > bound;
    return above;
  }

  // Keep the k largest and at most `slack` more; raise the floor to match. Ties at the k-th place: the first seen stay.
  void prune(int k, int slack) {
    if (count <= k) return;
    // At least k candidates are above low, fewer than k above high; ties kept by an earlier call equal the floor.
    Key low = floor - (floor != std::numeric_limits<Key>::min()), high = keys[0];
    for (int i = 1; i < count; i++) high = keys[i] > high ? keys[i] : high;
    int ties = 0;
    for (;;) {
      Key middle = (low & high) + ((low ^ high) >> 1);
      if (middle == low) { // adjacent keys: high is the k-th largest itself
        ties = k - count_above(keys, count, high);
        break;
      }
      int many = count_above(keys, count, middle);
      if (many < k) high = middle;
      else {
        low = middle;
        if (many <= k + slack) break;
      }
    }
    Key bound = ties ? high : low;
    int kept = 0;
    for (int i = 0; i < count; i++) {
      Key key = keys[i];
      int32_t latent = latents[i];
      keys[kept] = key;
      latents[kept] = latent;
      bool tie = ties > 0 && key == bound;
      ties -= tie;
      kept += (key > bound) | tie;
    }
    count = kept;
    floor = bound;
  }

  void offer(T value, int32_t latent, int k, int capacity) {
    Key key = key_of<T>(value);
    if (key <= floor) return; // the floor may have risen since the block was compared
    keys[count] = key;
    latents[count] = latent;
    if (++count == capacity) prune(k, k / 4);
  }

  void write(int k, T *codes, int64_t *indices) {
    prune(k, 0);
    for (int i = 0; i < k; i++) {
      codes[i] = value_of<T>(keys[i]);
      indices[i] = latents[i];
    }
  }
};

// Room for the selections of `tokens` tokens, allocated once per thread.
template <typename T> struct Selections {
  using Key = typename Traits<T>::Key;
  int k, capacity;
  std::vector<Key> keys;
  std::vector<int32_t> latents;
  std::vector<Selection<T>> of;

  Selections(int tokens, int64_t n, int k_)
      : k(k_), capacity(int(std::min<int64_t>(n, 4 * int64_t(k_)))), keys(size_t(tokens) * capacity),
        latents(size_t(tokens) * capacity), of(tokens) {}

  // Start over. Only values above `floor` will be kept; NaN keeps all (nothing is "<= NaN").
  void clear(int t, T floor) {
    Key key = floor != floor ? std::numeric_limits<Key>::min() : key_of<T>(floor);
    of[t] = {keys.data() + size_t(t) * capacity, latents.data() + size_t(t) * capacity, key, 0};
  }

  // The value to exceed.
  T floor(int t) const {
    return of[t].floor == std::numeric_limits<Key>::min() ? std::numeric_limits<T>::quiet_NaN()
                                                          : value_of<T>(of[t].floor);
  }
};

// A first floor is guessed from a sample, about its SAMPLE_RANK-th largest value, so that about GUESSED * k of all n
// values lie above it: most of the selection's work would go into the first few hundred values otherwise. A guess that
// leaves fewer than k is found out at the end and that tile done again without one, so it costs time, never a latent.
constexpr int SAMPLE_RANK = 14, GUESSED = 2, MAX_SAMPLE = 1024, GUESS_STEPS = 8;

inline int64_t sample_size(int64_t n, int k) {
  const int64_t size = std::min<int64_t>(MAX_SAMPLE, SAMPLE_RANK * n / (GUESSED * int64_t(k)));
  return size >= 2 * SAMPLE_RANK && 2 * size <= n ? size : 0;
}

// Lane by lane: a value that more than SAMPLE_RANK of the `size` values exceed, by bisection. z has `stride` vectors
// per value.
template <typename T> typename Traits<T>::Vec guess(const typename Traits<T>::Vec *z, int64_t size, int stride) {
  using Vec = typename Traits<T>::Vec;
  Vec low = z[0], high = z[0];
  for (int64_t j = 1; j < size; j++) {
    const Vec value = z[j * stride];
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  for (int step = 0; step < GUESS_STEPS; step++) {
    const Vec middle = low + (high - low) * T(0.5);
    decltype(low < high) many{};
    for (int64_t j = 0; j < size; j++) many -= z[j * stride] > middle;
    const auto more = many > SAMPLE_RANK;
    low = more ? middle : low;
    high = more ? high : middle;
  }
  return low;
}
