/* Coverage of the fuzz build: what gcc's -fsanitize-coverage=trace-pc,trace-cmp calls.
 *
 * A library of its own, preloaded: the decoder's modules and the driver share its tables.  Itself
 * it is compiled without the flag. */
#include <stdint.h>
#include <string.h>

#define MAP_BITS 16
#define MAP_SIZE (1u << MAP_BITS)
#define PAIRS 256

static uint8_t hits[MAP_SIZE];
static uint32_t touched[MAP_SIZE];
static uint32_t n_touched;
static uintptr_t before;
static int on;

/* Operands of comparisons that came out unequal: the one, found in the input, is worth replacing by
 * the other (a checksum, a length). */
static uint64_t pair[PAIRS][2];
static uint32_t n_pairs;

void __sanitizer_cov_trace_pc(void)
{
    uintptr_t pc, edge;
    if (!on)
        return;
    pc = (uintptr_t)__builtin_return_address(0);
    edge = ((pc ^ (before << 1)) * 0x9E3779B97F4A7C15ull) >> (64 - MAP_BITS);
    before = pc;
    if (hits[edge] == 0)
        touched[n_touched++] = (uint32_t)edge;
    if (hits[edge] != 255)
        hits[edge]++;
}

static void compared(uint64_t a, uint64_t b)
{
    if (!on || a == b)
        return;
    pair[n_pairs % PAIRS][0] = a;
    pair[n_pairs % PAIRS][1] = b;
    n_pairs++;
}

void __sanitizer_cov_trace_cmp1(uint8_t a, uint8_t b) { (void)a; (void)b; }
void __sanitizer_cov_trace_cmp2(uint16_t a, uint16_t b) { (void)a; (void)b; }
void __sanitizer_cov_trace_cmp4(uint32_t a, uint32_t b) { (void)a; (void)b; }
void __sanitizer_cov_trace_cmp8(uint64_t a, uint64_t b) { compared(a, b); }
void __sanitizer_cov_trace_const_cmp1(uint8_t a, uint8_t b) { (void)a; (void)b; }
void __sanitizer_cov_trace_const_cmp2(uint16_t a, uint16_t b) { (void)a; (void)b; }
void __sanitizer_cov_trace_const_cmp4(uint32_t a, uint32_t b) { (void)a; (void)b; }
void __sanitizer_cov_trace_const_cmp8(uint64_t a, uint64_t b) { compared(b, a); }
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a; (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a; (void)b; }
void __sanitizer_cov_trace_switch(uint64_t v, uint64_t *cases) { (void)v; (void)cases; }

void cover_start(void)
{
    uint32_t i;
    for (i = 0; i < n_touched; i++)
        hits[touched[i]] = 0;
    n_touched = 0;
    n_pairs = 0;
    before = 0;
    on = 1;
}

static uint8_t bucket(uint8_t n)
{
    return n < 4 ? 1u << (n - 1) : n < 8 ? 8 : n < 16 ? 16 : n < 32 ? 32 : n < 128 ? 64 : 128;
}

/* Whether this run went somewhere new, or a new number of times; notes it in `seen`. */
int cover_end(uint8_t *seen)
{
    uint32_t i;
    int news = 0;
    on = 0;
    for (i = 0; i < n_touched; i++) {
        uint8_t b = bucket(hits[touched[i]]);
        if (b & ~seen[touched[i]]) {
            news |= seen[touched[i]] ? 1 : 2;
            seen[touched[i]] |= b;
        }
    }
    return news;
}

uint32_t cover_pairs(uint64_t **pairs)
{
    *pairs = &pair[0][0];
    return n_pairs < PAIRS ? n_pairs : PAIRS;
}
