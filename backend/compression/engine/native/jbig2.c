/* The arithmetic coder of JBIG2 for generic regions: ITU-T T.88 (08/2018), 6.2 and annex E.
 *
 * Template 0 with its adaptive pixels where the standard has them by default, and typical
 * prediction. The bytes that come out are the data of an immediate generic region segment.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Table E.1: the probability's estimate, the next states, and whether the sense is switched. */
struct state {
    uint16_t qe;
    uint8_t after_mps, after_lps, switches;
};

static const struct state STATES[47] = {
    {0x5601, 1, 1, 1},    {0x3401, 2, 6, 0},    {0x1801, 3, 9, 0},    {0x0AC1, 4, 12, 0},
    {0x0521, 5, 29, 0},   {0x0221, 38, 33, 0},  {0x5601, 7, 6, 1},    {0x5401, 8, 14, 0},
    {0x4801, 9, 14, 0},   {0x3801, 10, 14, 0},  {0x3001, 11, 17, 0},  {0x2401, 12, 18, 0},
    {0x1C01, 13, 20, 0},  {0x1601, 29, 21, 0},  {0x5601, 15, 14, 1},  {0x5401, 16, 14, 0},
    {0x5101, 17, 15, 0},  {0x4801, 18, 16, 0},  {0x3801, 19, 17, 0},  {0x3401, 20, 18, 0},
    {0x3001, 21, 19, 0},  {0x2801, 22, 19, 0},  {0x2401, 23, 20, 0},  {0x2201, 24, 21, 0},
    {0x1C01, 25, 22, 0},  {0x1801, 26, 23, 0},  {0x1601, 27, 24, 0},  {0x1401, 28, 25, 0},
    {0x1201, 29, 26, 0},  {0x1101, 30, 27, 0},  {0x0AC1, 31, 28, 0},  {0x09C1, 32, 29, 0},
    {0x08A1, 33, 30, 0},  {0x0521, 34, 31, 0},  {0x0441, 35, 32, 0},  {0x02A1, 36, 33, 0},
    {0x0221, 37, 34, 0},  {0x0141, 38, 35, 0},  {0x0111, 39, 36, 0},  {0x0085, 40, 37, 0},
    {0x0049, 41, 38, 0},  {0x0025, 42, 39, 0},  {0x0015, 43, 40, 0},  {0x0009, 44, 41, 0},
    {0x0005, 45, 42, 0},  {0x0001, 45, 43, 0},  {0x5601, 46, 46, 0},
};

#define CONTEXTS 65536
#define TYPICAL 0x9B25 /* figure 8: the context in which a row says that it is like the last */

struct coder {
    uint32_t a, c;
    int ct;
    uint8_t *out;          /* begins one byte before the data: annex E's BP */
    size_t at, size;       /* `at` counts on past the end, so that the end is seen to be missed */
    uint8_t byte;
    uint8_t index[CONTEXTS], mps[CONTEXTS];
};

static void put(struct coder *coder) {
    if (coder->at > 0 && coder->at - 1 < coder->size)
        coder->out[coder->at - 1] = coder->byte;
    coder->at++;
}

/* Figure E.10, BYTEOUT. */
static void byte_out(struct coder *coder) {
    if (coder->byte != 0xFF && coder->c >= 0x8000000) {
        coder->byte++;
        if (coder->byte == 0xFF)
            coder->c &= 0x7FFFFFF;
    }
    int stuffed = coder->byte == 0xFF;
    put(coder);
    if (stuffed) {
        coder->byte = (uint8_t)(coder->c >> 20);
        coder->c &= 0xFFFFF;
        coder->ct = 7;
    } else {
        coder->byte = (uint8_t)(coder->c >> 19);
        coder->c &= 0x7FFFF;
        coder->ct = 8;
    }
}

/* Figures E.5 to E.9: ENCODE, CODEMPS, CODELPS, RENORME. */
static inline void encode(struct coder *coder, unsigned context, unsigned bit) {
    const struct state *state = &STATES[coder->index[context]];
    uint32_t qe = state->qe;

    coder->a -= qe;
    if (bit == coder->mps[context]) {
        if (coder->a & 0x8000) {
            coder->c += qe;
            return;
        }
        if (coder->a < qe)
            coder->a = qe;
        else
            coder->c += qe;
        coder->index[context] = state->after_mps;
    } else {
        if (coder->a < qe)
            coder->c += qe;
        else
            coder->a = qe;
        coder->mps[context] ^= state->switches;
        coder->index[context] = state->after_lps;
    }
    do {
        coder->a <<= 1;
        coder->c <<= 1;
        if (--coder->ct == 0)
            byte_out(coder);
    } while (!(coder->a & 0x8000));
}

/* Figure E.11, FLUSH. */
static size_t flush(struct coder *coder) {
    uint32_t most = coder->c + coder->a;

    coder->c |= 0xFFFF;
    if (coder->c >= most)
        coder->c -= 0x8000;
    coder->c <<= coder->ct;
    byte_out(coder);
    coder->c <<= coder->ct;
    byte_out(coder);
    put(coder);
    if (coder->byte != 0xFF) {
        coder->byte = 0xFF;
        put(coder);
    }
    coder->byte = 0xAC;
    put(coder);
    return coder->at - 1;
}

static inline unsigned pixel(const uint8_t *row, long x, long width) {
    return x >= 0 && x < width ? row[x >> 3] >> (7 - (x & 7)) & 1 : 0;
}

/* How much memory `jbig2_encode` works in. */
size_t jbig2_work_bytes(void) { return sizeof(struct coder); }

/* Encode a bitmap of packed rows, 1 for black, the unused bits of each row 0.
 *
 * Returns how many bytes the data takes; where that is more than `size`, what is in `out` is not
 * the data, and the number says no more than that. `work` has `jbig2_work_bytes()`.
 */
size_t jbig2_encode(const uint8_t *rows, long width, long height, uint8_t *out, size_t size,
                    void *work) {
    struct coder *coder = work;
    long stride = (width + 7) / 8;
    unsigned was_typical = 0;

    memset(coder, 0, sizeof *coder);
    coder->a = 0x8000;
    coder->ct = 12;
    coder->out = out;
    coder->size = size;
    for (long y = 0; y < height; y++) {
        static const uint8_t nothing[1] = {0};
        const uint8_t *row = rows + y * stride;
        const uint8_t *above = y > 0 ? row - stride : nothing;
        const uint8_t *over = y > 1 ? row - 2 * stride : nothing;
        long above_width = y > 0 ? width : 0, over_width = y > 1 ? width : 0;
        unsigned typical;

        if (y > 0) {
            typical = memcmp(row, above, (size_t)stride) == 0;
        } else {
            typical = 1;
            for (long i = 0; i < stride && typical; i++)
                typical = row[i] == 0;
        }
        encode(coder, TYPICAL, typical ^ was_typical);
        was_typical = typical;
        if (typical)
            continue;
        if (coder->at > size + 16)
            break; /* it is larger than was asked for already */

        /* Figure 3: five pixels two rows up, seven one row up, four on the left. */
        unsigned top = pixel(over, 0, over_width) << 1 | pixel(over, 1, over_width);
        unsigned middle = pixel(above, 0, above_width) << 2 | pixel(above, 1, above_width) << 1 |
                          pixel(above, 2, above_width);
        unsigned left = 0;
        for (long x = 0; x < width; x++) {
            unsigned bit = pixel(row, x, width);
            top = (top << 1 | pixel(over, x + 2, over_width)) & 0x1F;
            middle = (middle << 1 | pixel(above, x + 3, above_width)) & 0x7F;
            encode(coder, top << 11 | middle << 4 | left, bit);
            left = (left << 1 | bit) & 0xF;
        }
    }
    return flush(coder);
}
