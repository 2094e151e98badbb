/* SPDX-License-Identifier: Apache-2.0
 * A definition as a person may write it: JSON text, table, checks. What passes must survive the way back. */
#include "base/json.h"
#include "model/vm.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct vm_def def, again;
	struct err err;
	CLEANUP_JSON json_t *json = json_parse((const char *)bytes, size, &err);

	if (!json || json_to_record(&vm_def_schema, json, 0, &def, &err) < 0)
		return 0;
	vm_def_pin(&def);
	if (vm_def_check(&def, &err) < 0)
		return 0;
	CLEANUP_JSON json_t *back = json_from_record(&vm_def_schema, &def, 0);
	assert(json_to_record(&vm_def_schema, back, 0, &again, &err) == 0);
	assert(schema_equal(&vm_def_schema, &def, &again));
	return 0;
}
