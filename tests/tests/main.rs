//! What must hold across the layers: one binary, because linking the engine takes long.

mod crashes;
mod doors;
mod house;
mod law;
mod sources;
mod storage;
mod upkeep;
