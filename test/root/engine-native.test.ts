/**
 * The engine's tests again, with roots that are copies instead of overlays.
 */
process.env.BERTH_SNAPSHOTTER = 'native';
await import('./engine.test.ts');
