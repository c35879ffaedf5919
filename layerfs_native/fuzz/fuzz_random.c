/* Runs a fuzzer without libFuzzer: COUNT random inputs from SEED. For the test suite; real fuzzing is guided. */
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
	uint64_t state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	uint8_t data[600];
	for (long left = argc > 1 ? atol(argv[1]) : 1000; left > 0; left--) {
		for (size_t i = 0; i < sizeof data; i++) {
			state = state * 6364136223846793005u + 1442695040888963407u;
			data[i] = (uint8_t)(state >> 56);
		}
		LLVMFuzzerTestOneInput(data, 20 + state % (sizeof data - 20));
	}
	return 0;
}
