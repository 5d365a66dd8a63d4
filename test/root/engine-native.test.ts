/**
 * Repeats the engine's tests with the native snapshotter, which copies layers.
 */
process.env.BERTH_SNAPSHOTTER = 'native';
await import('./engine.test.ts');
