/* SPDX-License-Identifier: BSD-2-Clause */
/* Runs the native tests of the TA's portable parts; the first failure ends the program. */
#include "check.h"

int main(void)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{"manifest", test_manifest}, {"licence", test_licence}, {"password", test_password},
		{"plan", test_plan},         {"quota", test_quota},     {"answer", test_answer},
		{"sealed", test_sealed},     {"vendor", test_vendor},
	};
	size_t i = 0;

	for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		tests[i].run();
		printf("%s: passed\n", tests[i].name);
	}
	return 0;
}
