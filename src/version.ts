/** The version of berth, as package.json has it: a test compares them. Pure. */
export const version = '0.1.0';
